//! A composition with its recipients, as the spool keeps it: the parts once, then each recipient's values,
//! found without reading the others'.
//!
//! ```text
//! magic 8 | length u32 | composition, JSON | count u32 | count + 1 offsets u32 | recipients, JSON each
//! ```

use bytes::{BufMut, Bytes, BytesMut};
use serde::{Deserialize, Serialize};

use crate::composition::{Composition, Mailbox};
use crate::placeholder::{FillError, Values};

const MAGIC: &[u8; 8] = b"PKCOMPO1";

/// A recipient of a document.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Recipient {
    /// Who; stands alone in `To`.
    pub mailbox: Mailbox,
    /// Their values.
    pub values: Values,
}

/// Why a document cannot be read or made.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DocumentError {
    /// Damaged, or written by something else.
    #[error("the stored composition is damaged")]
    Damaged,
    /// A recipient lacks a value.
    #[error("recipient {number}: {missing}")]
    Missing {
        /// Which, from 0.
        number: usize,
        /// What.
        missing: FillError,
    },
    /// It cannot be stored.
    #[error("the composition is too large")]
    TooLarge,
}

/// A stored composition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Document(Bytes);

impl Document {
    /// Stores a composition for these recipients. The texts of every one are filled once, so that none
    /// can fail later; the message of the one with the largest is given back with the document. Takes time for
    /// many recipients: not for the threads of a runtime.
    ///
    /// # Errors
    /// A value is missing, or it is too large to be stored.
    pub fn new(composition: &Composition, recipients: &[Recipient]) -> Result<(Self, Vec<u8>), DocumentError> {
        let missing = |number, missing| DocumentError::Missing { number, missing };
        let (mut heaviest, mut most) = (0, 0);
        for (number, one) in recipients.iter().enumerate() {
            let weight = composition.weight_for(&one.mailbox, &one.values).map_err(|name| missing(number, name))?;
            if weight > most {
                (heaviest, most) = (number, weight);
            }
        }
        let largest = match recipients.get(heaviest) {
            Some(one) => {
                let message = composition.message_for(&one.mailbox, &one.values, heaviest);
                message.map_err(|name| missing(heaviest, name))?
            }
            None => Vec::new(),
        };
        let json = |value: serde_json::Result<Vec<u8>>| value.map_err(|_| DocumentError::TooLarge);
        let parts = json(serde_json::to_vec(composition))?;
        let values: Vec<Vec<u8>> =
            recipients.iter().map(|recipient| json(serde_json::to_vec(recipient))).collect::<Result<_, _>>()?;
        let length = |size: usize| u32::try_from(size).map_err(|_| DocumentError::TooLarge);
        let mut out =
            BytesMut::with_capacity(parts.len() + values.iter().map(|value| value.len() + 4).sum::<usize>() + 64);
        out.put_slice(MAGIC);
        out.put_u32(length(parts.len())?);
        out.put_slice(&parts);
        out.put_u32(length(recipients.len())?);
        let mut offset = 0;
        out.put_u32(0);
        for value in &values {
            offset += value.len();
            out.put_u32(length(offset)?);
        }
        values.iter().for_each(|value| out.put_slice(value));
        Ok((Self(out.freeze()), largest))
    }

    /// The stored octets.
    pub fn octets(&self) -> &Bytes {
        &self.0
    }

    /// From stored octets.
    pub fn from_octets(octets: Bytes) -> Self {
        Self(octets)
    }

    /// The message of one recipient.
    ///
    /// # Errors
    /// The document is damaged.
    pub fn message(&self, number: usize) -> Result<Vec<u8>, DocumentError> {
        let (composition, recipient) = self.parts(number).ok_or(DocumentError::Damaged)?;
        composition
            .message_for(&recipient.mailbox, &recipient.values, number)
            .map_err(|missing| DocumentError::Missing { number, missing })
    }

    fn parts(&self, number: usize) -> Option<(Composition, Recipient)> {
        let rest = self.0.strip_prefix(MAGIC)?;
        let (length, rest) = rest.split_first_chunk::<4>()?;
        let (parts, rest) = rest.split_at_checked(u32::from_be_bytes(*length) as usize)?;
        let (count, rest) = rest.split_first_chunk::<4>()?;
        let count = u32::from_be_bytes(*count) as usize;
        let (offsets, values) = rest.split_at_checked(count.checked_add(1)?.checked_mul(4)?)?;
        let offset = |place: usize| Some(u32::from_be_bytes(*offsets.as_chunks::<4>().0.get(place)?) as usize);
        let value = values.get(offset(number)?..offset(number.checked_add(1)?)?)?;
        Some((serde_json::from_slice(parts).ok()?, serde_json::from_slice(value).ok()?))
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn composition() -> Composition {
        Composition {
            from: Mailbox { name: None, address: "a@sender.example".into() },
            to: Vec::new(),
            cc: Vec::new(),
            reply_to: Vec::new(),
            subject: "For {{name}}".into(),
            text: Some("{{name}}: {{common}}\n".into()),
            html: None,
            headers: Vec::new(),
            attachments: Vec::new(),
            date: 1_790_000_000,
            message_id: ("1".into(), "sender.example".into()),
            values: [("common".to_owned(), "all".to_owned())].into(),
            style: crate::Style::Braces,
        }
    }

    fn recipients(count: usize) -> Vec<Recipient> {
        (0..count)
            .map(|number| Recipient {
                mailbox: Mailbox { name: None, address: format!("r{number}@example.org") },
                values: [("name".to_owned(), format!("name-{number}"))].into(),
            })
            .collect()
    }

    #[test]
    fn each_recipient_gets_their_own_message_out_of_one_document() {
        let (document, largest) = Document::new(&composition(), &recipients(100)).unwrap();
        let stored = Document::from_octets(document.octets().clone());
        for number in [0, 57, 99] {
            let text = String::from_utf8(stored.message(number).unwrap()).unwrap();
            assert!(text.contains(&format!("name-{number}: all")), "{text}");
            assert!(text.contains(&format!("<r{number}@example.org>")) && !text.contains("r1@"), "{text}");
            assert!(text.len() <= largest.len() + 2, "one digit more or less in the names");
        }
        assert_eq!(stored.message(100), Err(DocumentError::Damaged));
        assert!(document.octets().len() < 100 * 120, "the parts are stored once");
    }

    #[test]
    fn a_recipient_without_a_value_is_named_before_anything_is_stored() {
        let mut recipients = recipients(3);
        recipients[1].values.clear();
        let error = Document::new(&composition(), &recipients).unwrap_err();
        assert_eq!(error.to_string(), "recipient 1: there is no value for the placeholder name");
    }

    #[test]
    fn what_one_recipients_header_cannot_hold_is_found_though_others_have_more_text() {
        let long = |length: usize| Values::from([("name".to_owned(), "x".repeat(length))]);
        let with_name = |name: &str, values: Values| Recipient {
            mailbox: Mailbox { name: Some(name.into()), address: "r@example.org".into() },
            values,
        };
        let mut composition = composition();
        composition.text = Some("{{body}}".into());
        composition.values.insert("body".into(), String::new());
        let heavy = {
            let mut values = long(1);
            values.insert("body".into(), "long ".repeat(10_000));
            with_name("Heavy", values)
        };
        // No value for the name, a word too long for a line, and more than a header holds.
        for (light, told) in [
            (with_name("{{missing}}", long(1)), "placeholder missing"),
            (with_name("Light", long(901)), "a word of more than 900"),
            (with_name("Light", Values::from([("name".to_owned(), "word ".repeat(2000))])), "longer than 8192"),
        ] {
            let error = Document::new(&composition, &[heavy.clone(), light]).unwrap_err().to_string();
            assert!(error.starts_with("recipient 1: ") && error.contains(told), "{error}");
        }
        let (document, largest) = Document::new(&composition, &[with_name("Light", long(900)), heavy]).unwrap();
        assert!(largest.len() > 50_000);
        let light = document.message(0).unwrap();
        assert!(light.split(|octet| *octet == b'\n').all(|line| line.len() <= 999), "998 octets and the line end");
    }

    proptest! {
        /// Once a document is made none of its messages can fail, whatever the parts and values are.
        #[test]
        fn every_message_of_a_document_can_be_built(
            subject in "[a{}n ]{0,20}",
            name in proptest::option::of("[a{}n ]{0,20}"),
            header in "[ax{}n ü]{0,20}",
            values in proptest::collection::vec("[a ü<]{0,2000}", 1..4),
        ) {
            let composition = Composition {
                subject, headers: vec![("X-Any".into(), header)], ..composition()
            };
            let recipients: Vec<Recipient> = values.into_iter().map(|value| Recipient {
                mailbox: Mailbox { name: name.clone(), address: "r@example.org".into() },
                values: [("name".to_owned(), value.clone()), ("a".to_owned(), value.clone()), ("n".to_owned(), value)].into(),
            }).collect();
            if let Ok((document, _)) = Document::new(&composition, &recipients) {
                for number in 0..recipients.len() {
                    let message = document.message(number);
                    prop_assert!(message.is_ok(), "{message:?}");
                    let message = message.unwrap_or_default();
                    prop_assert!(message.split(|octet| *octet == b'\n').all(|line| line.len() <= 999));
                }
            }
        }

        #[test]
        fn damaged_documents_are_refused_without_panic(cut in 0usize..2000, place in 0usize..2000, octet: u8) {
            let (document, _) = Document::new(&composition(), &recipients(5)).unwrap();
            let mut octets = document.octets().to_vec();
            octets.truncate(cut);
            if let Some(touched) = octets.get_mut(place) { *touched = octet; }
            let _ = Document::from_octets(octets.into()).message(3);
        }
    }
}
