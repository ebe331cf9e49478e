//! MTA-STS (RFC 8461): which hosts a domain's mail may go to, and that only with a certificate that is valid for them.

mod cache;
mod policy;
mod store;

pub use cache::{Answer, Cache, CachedPolicy, Standing};
pub use policy::{LARGEST_POLICY, Mode, Policy, PolicyError};
pub use store::Store;

use mail_auth::common::parse::TxtRecordParser;

/// The name at which a domain says that it has a policy.
pub fn record_name(domain: &str) -> String {
    format!("_mta-sts.{domain}")
}

/// The host that serves a domain's policy; its certificate must be valid for this name (§3.3).
pub fn policy_host(domain: &str) -> String {
    format!("mta-sts.{domain}")
}

/// Where on it the policy is.
pub const POLICY_PATH: &str = "/.well-known/mta-sts.txt";

/// The identifier in the TXT records of `_mta-sts.DOMAIN`; `None`: there is no policy, also when there are several records
/// (§3.1).
pub fn policy_id<'a>(records: impl Iterator<Item = &'a [u8]>) -> Option<String> {
    let mut found = records.filter(|record| record.starts_with(b"v=STSv1"));
    let record = found.next()?;
    if found.next().is_some() {
        return None;
    }
    let id = mail_auth::mta_sts::MtaSts::parse(record).ok()?.id;
    let is_id = (1..=32).contains(&id.len()) && id.bytes().all(|octet| octet.is_ascii_alphanumeric());
    is_id.then_some(id)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn id(records: &[&str]) -> Option<String> {
        policy_id(records.iter().map(|record| record.as_bytes()))
    }

    #[test]
    fn the_record_of_rfc_8461_3_1_is_read_and_others_are_not() {
        assert_eq!(id(&["v=STSv1; id=20160831085700Z;"]).as_deref(), Some("20160831085700Z"));
        assert_eq!(id(&["something else", "v=STSv1; id=1;"]).as_deref(), Some("1"));
        for none in
            [&["v=STSv1; id=1;", "v=STSv1; id=2;"][..], &["v=STSv1;"], &["v=STSv1; id=a-b;"], &["v=STSv2; id=1;"], &[]]
        {
            assert_eq!(id(none), None, "{none:?}");
        }
        assert_eq!(id(&["v=STSv1; id=123456789012345678901234567890123;"]), None, "33 characters");
    }
}
