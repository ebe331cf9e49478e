//! Who opens a box, and how: custodians and their shares, the token beside the volume, answers, and the decision whether they are
//! enough. Pure: no socket, no disk, no clock; random octets are handed in (those of age's own files excepted).
//!
//! The secret that opens a volume is split among custodians ([`share`]); each share lies in the token ([`Token`]) as an age file
//! that only its custodian reads. A box that starts makes a key in its memory ([`Unseal`]); custodians answer to that key
//! ([`Answer`]); of `threshold` right answers comes the secret, and from it the passphrase of the volume ([`passphrase`]).

mod answer;
pub mod challenge;
mod commitment;
pub mod envelope;
pub mod export;
mod field;
pub mod keeper;
mod key_set;
mod names;
mod octets;
mod parcel;
mod passphrase;
pub mod possession;
mod random;
mod recipient;
mod secret;
mod share;
pub mod standing;
mod token;
pub mod tpm;
pub mod unseal;
pub mod wire;
pub mod words;

pub use self::answer::{Answer, AnswerError, Cause, Grade, LONGEST_REASON, Offer};
pub use self::commitment::{Belonging, Commitment};
pub use self::key_set::{Custodian, KeySet, KeySetError, MOST_RECIPIENTS, Name, Quorum};
pub use self::names::{BootId, Purpose, Sum, VolumeId};
pub use self::octets::Octets;
pub use self::passphrase::passphrase;
pub use self::random::{Random, System};
pub use self::recipient::{Recipient, RecipientError, secret_line};
pub use self::secret::{SECRET, Secret};
pub use self::share::{MOST_SHARES, Share, ShareError, combine, split};
pub use self::token::{FORMAT, Held, Holder, LARGEST_TOKEN, Made, Shares, Token, TokenError};
pub use self::unseal::{Counts, Opening, Progress, Refusal, Unseal, Witness};

#[cfg(test)]
mod tests;
