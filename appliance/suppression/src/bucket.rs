//! The packed form in which the index keeps entries: all whose keys begin with the same two octets
//! stand in one value, sorted. Pure.
//!
//! A tree with one small value for each of ten million keys costs ten times the memory, disk and
//! time of 65,536 packed ones (measured with sled 0.34).

use std::cmp::Ordering;

use smallvec::SmallVec;

use crate::change::{Change, REST_LENGTH};
use crate::secret::{KEY_LENGTH, Key};

/// Octets of the key that name the bucket.
pub(crate) const PREFIX: usize = 2;
const TAIL: usize = KEY_LENGTH - PREFIX;
/// Octets of one record.
pub(crate) const RECORD_LENGTH: usize = TAIL + REST_LENGTH;

/// Entries of one address; mostly one.
pub(crate) type Records = SmallVec<[Change; 1]>;

/// The bucket that a key belongs to.
pub(crate) fn bucket_of(key: Key) -> [u8; PREFIX] {
    let [first, second, ..] = key.0;
    [first, second]
}

/// Whether a value can be one of ours: whole records with known codes, in order.
pub(crate) fn is_sound(bucket: [u8; PREFIX], value: &[u8]) -> bool {
    let mut last = None;
    value.len().is_multiple_of(RECORD_LENGTH)
        && value.as_chunks::<RECORD_LENGTH>().0.iter().all(|record| {
            let place = decode(bucket, record).map(|change| change.place);
            let is_next = place.is_some() && last < place;
            last = place;
            is_next
        })
}

/// All records of a value.
pub(crate) fn all(bucket: [u8; PREFIX], value: &[u8]) -> impl Iterator<Item = Change> + '_ {
    value.as_chunks::<RECORD_LENGTH>().0.iter().filter_map(move |record| decode(bucket, record))
}

/// The records of one key.
pub(crate) fn of_key(value: &[u8], key: Key) -> Records {
    let tail = &key.0[PREFIX..];
    let records = value.as_chunks::<RECORD_LENGTH>().0;
    let first = records.partition_point(|record| record[..TAIL].cmp(tail) == Ordering::Less);
    records
        .get(first..)
        .unwrap_or_default()
        .iter()
        .take_while(|record| record[..TAIL] == *tail)
        .filter_map(|record| decode(bucket_of(key), record))
        .collect()
}

/// The value after changes of keys of this bucket. They are sorted by place; of several for one place,
/// the later one counts.
pub(crate) fn merge(bucket: [u8; PREFIX], value: &[u8], changes: &[Change]) -> Vec<u8> {
    let mut out = Vec::with_capacity(value.len() + changes.len() * RECORD_LENGTH);
    let mut old = value.as_chunks::<RECORD_LENGTH>().0.iter().peekable();
    for same in changes.chunk_by(|a, b| a.place == b.place) {
        let Some(change) = same.last() else { continue };
        let mut was_there = false;
        while let Some(record) = old.peek() {
            match decode(bucket, record).map(|known| known.place.cmp(&change.place)) {
                Some(Ordering::Less) => out.extend_from_slice(*record),
                Some(Ordering::Equal) => {
                    was_there = true;
                    // The first time that somebody said so is kept.
                    if change.is_added {
                        out.extend_from_slice(*record);
                    }
                }
                Some(Ordering::Greater) => break,
                None => {}
            }
            old.next();
        }
        if change.is_added && !was_there {
            encode(change, &mut out);
        }
    }
    old.for_each(|record| out.extend_from_slice(record));
    out
}

/// Entries as they stand after changes that are not in the index yet, in their order.
pub(crate) fn after(mut records: Records, changes: &[Change]) -> Records {
    for change in changes {
        let known = records.iter().position(|record| record.place == change.place);
        match (known, change.is_added) {
            (None, true) => records.push(*change),
            (Some(position), false) => {
                records.remove(position);
            }
            (Some(_), true) | (None, false) => {}
        }
    }
    records
}

fn encode(change: &Change, out: &mut Vec<u8>) {
    out.extend_from_slice(&change.place.key.0[PREFIX..]);
    change.encode_rest(out);
}

fn decode(bucket: [u8; PREFIX], record: &[u8; RECORD_LENGTH]) -> Option<Change> {
    let (tail, rest) = record.split_first_chunk::<TAIL>()?;
    let mut key = [0; KEY_LENGTH];
    key[..PREFIX].copy_from_slice(&bucket);
    key[PREFIX..].copy_from_slice(tail);
    Change::decode_rest(Key(key), true, rest)
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use proptest::prelude::*;

    use super::*;
    use crate::change::{Place, ScopeNumber};
    use crate::entry::{Origin, Reason};

    fn change() -> impl Strategy<Value = Change> {
        (0u8..6, 0u32..3, 0u8..5, any::<bool>(), any::<u32>()).prop_map(|(key, scope, reason, is_added, time)| Change {
            place: Place {
                key: Key([9, 9, 0, 0, 0, 0, 0, 0, 0, 0, key, 1]),
                scope: ScopeNumber(scope),
                reason: Reason::from_code(reason).unwrap(),
            },
            is_added,
            origin: Origin::Import,
            time,
        })
    }

    proptest! {
        #[test]
        fn merging_in_any_portions_gives_what_a_map_would_hold(
            portions in proptest::collection::vec(proptest::collection::vec(change(), 0..12), 0..6)
        ) {
            let bucket = [9, 9];
            let mut value = Vec::new();
            let mut map: BTreeMap<Place, u32> = BTreeMap::new();
            for portion in &portions {
                // Within a portion the last word counts, as the keeper hands it over.
                let mut sorted = portion.clone();
                sorted.sort_by_key(|change| change.place);
                value = merge(bucket, &value, &sorted);
                for same in sorted.chunk_by(|a, b| a.place == b.place) {
                    let last = same.last().unwrap();
                    if last.is_added { map.entry(last.place).or_insert(last.time); } else { map.remove(&last.place); }
                }
                prop_assert!(is_sound(bucket, &value));
            }
            let held: BTreeMap<Place, u32> = all(bucket, &value).map(|change| (change.place, change.time)).collect();
            prop_assert_eq!(&held, &map);
            for key in 0..6 {
                let key = Key([9, 9, 0, 0, 0, 0, 0, 0, 0, 0, key, 1]);
                let found: Vec<Place> = of_key(&value, key).iter().map(|change| change.place).collect();
                let expected: Vec<Place> = map.keys().filter(|place| place.key == key).copied().collect();
                prop_assert_eq!(found, expected);
            }
        }

        #[test]
        fn changes_on_top_of_the_index_read_as_if_they_were_in_it(
            first in proptest::collection::vec(change(), 0..12), second in proptest::collection::vec(change(), 0..12)
        ) {
            let bucket = [9, 9];
            let key = Key([9, 9, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1]);
            let sorted = |changes: &[Change]| {
                let mut changes = changes.to_vec();
                changes.sort_by_key(|change| change.place);
                changes
            };
            let value = merge(bucket, &[], &sorted(&first));
            let mut of_it = second.clone();
            of_it.retain(|change| change.place.key == key);
            let mut on_top: Vec<Place> = after(of_key(&value, key), &of_it).iter().map(|change| change.place).collect();
            on_top.sort();
            let merged: Vec<Place> =
                of_key(&merge(bucket, &value, &sorted(&second)), key).iter().map(|change| change.place).collect();
            prop_assert_eq!(on_top, merged);
        }

        #[test]
        fn what_is_no_bucket_is_told_and_never_panics(octets in proptest::collection::vec(any::<u8>(), 0..100)) {
            let _ = is_sound([0, 0], &octets);
            let _ = of_key(&octets, Key([0; KEY_LENGTH]));
            let _ = merge([0, 0], &octets, &[]);
        }
    }
}
