//! Lists and tables of a request that are given up as soon as they have more members than they may: what a caller sends
//! takes no more memory than what is wanted of it.

use std::collections::BTreeMap;
use std::fmt;
use std::marker::PhantomData;

use serde::Deserialize;
use serde::de::{Deserializer, Error, MapAccess, SeqAccess, Visitor};

/// A list of at most `MOST`.
pub(crate) fn list<'de, const MOST: usize, T, D>(deserializer: D) -> Result<Vec<T>, D::Error>
where
    T: Deserialize<'de>,
    D: Deserializer<'de>,
{
    struct List<const MOST: usize, T>(PhantomData<T>);

    impl<'de, const MOST: usize, T: Deserialize<'de>> Visitor<'de> for List<MOST, T> {
        type Value = Vec<T>;

        fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(formatter, "a list of at most {MOST}")
        }

        fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Vec<T>, A::Error> {
            let mut members = Vec::new();
            while let Some(member) = sequence.next_element()? {
                if members.len() == MOST {
                    return Err(A::Error::custom(format!("more than {MOST} in one list: make several calls")));
                }
                members.push(member);
            }
            Ok(members)
        }
    }

    deserializer.deserialize_seq(List::<MOST, T>(PhantomData))
}

/// A table of at most `MOST` names.
pub(crate) fn table<'de, const MOST: usize, V, D>(deserializer: D) -> Result<BTreeMap<String, V>, D::Error>
where
    V: Deserialize<'de>,
    D: Deserializer<'de>,
{
    struct Table<const MOST: usize, V>(PhantomData<V>);

    impl<'de, const MOST: usize, V: Deserialize<'de>> Visitor<'de> for Table<MOST, V> {
        type Value = BTreeMap<String, V>;

        fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
            write!(formatter, "a table of at most {MOST} names")
        }

        fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<BTreeMap<String, V>, A::Error> {
            let mut members = BTreeMap::new();
            while let Some((name, value)) = map.next_entry()? {
                members.insert(name, value);
                if members.len() > MOST {
                    return Err(A::Error::custom(format!("more than {MOST} names in one table")));
                }
            }
            Ok(members)
        }
    }

    deserializer.deserialize_map(Table::<MOST, V>(PhantomData))
}

/// As [`table`], or `null`.
pub(crate) fn optional_table<'de, const MOST: usize, V, D>(
    deserializer: D,
) -> Result<Option<BTreeMap<String, V>>, D::Error>
where
    V: Deserialize<'de>,
    D: Deserializer<'de>,
{
    struct Some_<const MOST: usize, V>(BTreeMap<String, V>);

    impl<'de, const MOST: usize, V: Deserialize<'de>> Deserialize<'de> for Some_<MOST, V> {
        fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
            table::<MOST, V, D>(deserializer).map(Self)
        }
    }

    Ok(Option::<Some_<MOST, V>>::deserialize(deserializer)?.map(|table| table.0))
}

/// A text, or a number or truth value as text; nothing that has members.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Word(pub(crate) String);

impl<'de> Deserialize<'de> for Word {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any;

        impl Visitor<'_> for Any {
            type Value = Word;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a text or a number")
            }

            fn visit_str<E>(self, value: &str) -> Result<Word, E> {
                Ok(Word(value.to_owned()))
            }

            fn visit_string<E>(self, value: String) -> Result<Word, E> {
                Ok(Word(value))
            }

            fn visit_bool<E>(self, value: bool) -> Result<Word, E> {
                Ok(Word(value.to_string()))
            }

            fn visit_i64<E>(self, value: i64) -> Result<Word, E> {
                Ok(Word(value.to_string()))
            }

            fn visit_u64<E>(self, value: u64) -> Result<Word, E> {
                Ok(Word(value.to_string()))
            }

            fn visit_f64<E>(self, value: f64) -> Result<Word, E> {
                Ok(Word(value.to_string()))
            }

            fn visit_unit<E>(self) -> Result<Word, E> {
                Ok(Word("null".to_owned()))
            }
        }

        deserializer.deserialize_any(Any)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Debug, Deserialize)]
    struct Request {
        #[serde(deserialize_with = "list::<3, _, _>")]
        to: Vec<Word>,
        #[serde(default, deserialize_with = "optional_table::<2, _, _>")]
        values: Option<BTreeMap<String, Word>>,
    }

    #[test]
    fn what_has_too_many_members_is_given_up_at_the_first_that_is_too_many() {
        let good: Request = serde_json::from_str(r#"{"to":["a",1,true],"values":{"a":null,"b":2.5}}"#).unwrap();
        assert_eq!((good.to.len(), good.values.map(|values| values.len())), (3, Some(2)));
        for (json, told) in [
            (r#"{"to":["a","b","c","d"]}"#, "more than 3 in one list"),
            (r#"{"to":[],"values":{"a":"","b":"","c":""}}"#, "more than 2 names"),
            (r#"{"to":[["a"]]}"#, "a text or a number"),
            (r#"{"to":[],"values":{"a":{}}}"#, "a text or a number"),
        ] {
            let error = serde_json::from_str::<Request>(json).unwrap_err().to_string();
            assert!(error.contains(told), "{json}: {error}");
        }
        // It is not read to its end: what follows the fourth is no JSON.
        let error = serde_json::from_str::<Request>(r#"{"to":["a","b","c","d" nonsense"#).unwrap_err().to_string();
        assert!(error.contains("more than 3"), "{error}");
    }
}
