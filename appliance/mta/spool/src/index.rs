//! Which messages are not complete, and where each lies. Five million of them have to fit in
//! little memory, so entries are packed in leaves sorted by id: ids rise, so leaves fill to
//! the brim, and what stays behind after most are complete is packed together again.

use std::collections::BTreeMap;

use crate::{MessageId, RetryState};

/// What is kept for each message.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) struct Entry {
    /// The segment that holds it.
    pub(crate) segment: u32,
    /// Offset of its frame, in units of the frame alignment.
    pub(crate) offset: u32,
    /// Bytes that it takes in the segment, in the same units.
    pub(crate) length: u32,
    /// The recipient that is outstanding, or [`MANY`].
    recipient: u16,
    attempts: u16,
    /// Due time; for many recipients the number of their list.
    due: u32,
    state_segment: u32,
}

const MANY: u16 = u16::MAX;

/// A recipient that is not complete.
#[derive(Copy, Clone, Debug, PartialEq, Eq)]
pub(crate) struct Outstanding {
    pub(crate) recipient: u16,
    pub(crate) state: RetryState,
    /// The segment with the record of this state; 0 when the message's own record has it.
    pub(crate) state_segment: u32,
}

/// Entries in a leaf at most.
const LEAF: usize = 512;

#[derive(Copy, Clone, Debug)]
struct Item {
    /// Id minus the leaf's first id.
    low: u32,
    entry: Entry,
}

/// Messages by id.
#[derive(Debug, Default)]
pub(crate) struct Index {
    leaves: BTreeMap<u64, Vec<Item>>,
    count: u64,
    lists: Vec<Vec<Outstanding>>,
    free_lists: Vec<u32>,
}

impl Index {
    pub(crate) fn len(&self) -> u64 {
        self.count
    }

    /// Where the message lies.
    pub(crate) fn get(&self, id: MessageId) -> Option<Entry> {
        let (first, leaf) = self.leaf(id)?;
        let at = find(leaf, id.0 - first).ok()?;
        leaf.get(at).map(|item| item.entry)
    }

    fn leaf(&self, id: MessageId) -> Option<(u64, &Vec<Item>)> {
        let (first, leaf) = self.leaves.range(..=id.0).next_back()?;
        Some((*first, leaf))
    }

    fn entry_mut(&mut self, id: MessageId) -> Option<&mut Entry> {
        let (first, leaf) = self.leaves.range_mut(..=id.0).next_back()?;
        let at = find(leaf, id.0 - first).ok()?;
        leaf.get_mut(at).map(|item| &mut item.entry)
    }

    /// The recipients that are not complete, in rising order.
    pub(crate) fn outstanding(&self, entry: &Entry) -> Vec<Outstanding> {
        if entry.recipient == MANY {
            return self.lists.get(entry.due as usize).cloned().unwrap_or_default();
        }
        vec![entry.single()]
    }

    /// One recipient, if it is not complete.
    pub(crate) fn recipient(&self, entry: &Entry, recipient: u16) -> Option<Outstanding> {
        if entry.recipient != MANY {
            return (entry.recipient == recipient).then(|| entry.single());
        }
        let list = self.lists.get(entry.due as usize)?;
        let at = list.binary_search_by_key(&recipient, |one| one.recipient).ok()?;
        list.get(at).copied()
    }

    /// Adds a message that is not there; at least one recipient, in rising order.
    pub(crate) fn insert(
        &mut self,
        id: MessageId,
        segment: u32,
        offset: u32,
        length: u32,
        outstanding: Vec<Outstanding>,
    ) {
        let mut entry = Entry { segment, offset, length, recipient: MANY, attempts: 0, due: 0, state_segment: 0 };
        self.set_outstanding(&mut entry, outstanding);
        let target =
            self.leaves.range_mut(..=id.0).next_back().filter(|(first, _)| id.0 - **first <= u64::from(u32::MAX));
        match target {
            Some((first, leaf)) => {
                let low = (id.0 - *first) as u32;
                let item = Item { low, entry };
                match find(leaf, u64::from(low)) {
                    Ok(at) => leaf[at] = item,
                    Err(at) if leaf.len() < LEAF => {
                        leaf.insert(at, item);
                        self.count += 1;
                    }
                    Err(at) => {
                        // Behind a full leaf a new one begins; inside it, its upper part moves.
                        let base = *first;
                        let mut upper = leaf.split_off(at);
                        upper.insert(0, item);
                        self.count += 1;
                        rebase(&mut upper, base, id.0);
                        self.leaves.insert(id.0, upper);
                    }
                }
            }
            None => {
                self.leaves.insert(id.0, vec![Item { low: 0, entry }]);
                self.count += 1;
            }
        }
    }

    /// Takes the message away and returns what was known of it.
    pub(crate) fn remove(&mut self, id: MessageId) -> Option<(Entry, Vec<Outstanding>)> {
        let (first, leaf) = self.leaves.range_mut(..=id.0).next_back()?;
        let first = *first;
        let at = find(leaf, id.0 - first).ok()?;
        let entry = leaf.remove(at).entry;
        self.count -= 1;
        let length = leaf.len();
        if length == 0 {
            self.leaves.remove(&first);
        } else {
            if leaf.capacity() > 16 && length < leaf.capacity() / 4 * 3 {
                leaf.shrink_to(length + length / 8);
            }
            if length < LEAF / 4 {
                self.merge(first);
                if let Some(before) = self.leaves.range(..first).next_back().map(|(before, _)| *before) {
                    self.merge(before);
                }
            }
        }
        let outstanding = self.outstanding(&entry);
        self.free_list(&entry);
        Some((entry, outstanding))
    }

    /// Puts the leaf together with its successor when both are small.
    fn merge(&mut self, first: u64) {
        let Some((next_first, next)) = self.leaves.range(first + 1..).next() else {
            return;
        };
        let next_first = *next_first;
        let fits = self.leaves.get(&first).is_some_and(|leaf| leaf.len() + next.len() <= LEAF * 3 / 4)
            && next_first + u64::from(next.last().map_or(0, |item| item.low)) - first <= u64::from(u32::MAX);
        if !fits {
            return;
        }
        if let Some(mut next) = self.leaves.remove(&next_first) {
            let shift = (next_first - first) as u32;
            next.iter_mut().for_each(|item| item.low += shift);
            if let Some(leaf) = self.leaves.get_mut(&first) {
                leaf.reserve_exact(next.len());
                leaf.append(&mut next);
            }
        }
    }

    /// Marks one recipient complete. Returns its last state, and whether others remain;
    /// the message itself is left for the caller to remove when none does.
    pub(crate) fn complete(&mut self, id: MessageId, recipient: u16) -> Option<(Outstanding, bool)> {
        let mut entry = self.get(id)?;
        let gone = self.recipient(&entry, recipient)?;
        if entry.recipient != MANY {
            return Some((gone, false));
        }
        let list = self.lists.get_mut(entry.due as usize)?;
        list.retain(|one| one.recipient != recipient);
        if let [last] = list[..] {
            self.free_list(&entry);
            entry.set_single(last);
            *self.entry_mut(id)? = entry;
        }
        Some((gone, true))
    }

    /// Replaces one recipient's state and returns the earlier one.
    pub(crate) fn defer(&mut self, id: MessageId, new: Outstanding) -> Option<Outstanding> {
        let mut entry = self.get(id)?;
        let earlier = self.recipient(&entry, new.recipient)?;
        if entry.recipient == MANY {
            let list = self.lists.get_mut(entry.due as usize)?;
            let at = list.binary_search_by_key(&new.recipient, |one| one.recipient).ok()?;
            *list.get_mut(at)? = new;
        } else {
            entry.set_single(new);
            *self.entry_mut(id)? = entry;
        }
        Some(earlier)
    }

    fn set_outstanding(&mut self, entry: &mut Entry, outstanding: Vec<Outstanding>) {
        if let [single] = outstanding[..] {
            entry.set_single(single);
            return;
        }
        let number = self.free_lists.pop().unwrap_or_else(|| {
            self.lists.push(Vec::new());
            (self.lists.len() - 1) as u32
        });
        if let Some(list) = self.lists.get_mut(number as usize) {
            *list = outstanding;
        }
        entry.recipient = MANY;
        entry.due = number;
    }

    fn free_list(&mut self, entry: &Entry) {
        if entry.recipient == MANY {
            if let Some(list) = self.lists.get_mut(entry.due as usize) {
                *list = Vec::new();
            }
            self.free_lists.push(entry.due);
        }
    }
}

impl Entry {
    fn single(&self) -> Outstanding {
        Outstanding {
            recipient: self.recipient,
            state: RetryState { attempts: self.attempts, due: self.due },
            state_segment: self.state_segment,
        }
    }

    fn set_single(&mut self, one: Outstanding) {
        self.recipient = one.recipient;
        self.attempts = one.state.attempts;
        self.due = one.state.due;
        self.state_segment = one.state_segment;
    }
}

fn find(leaf: &[Item], low: u64) -> Result<usize, usize> {
    leaf.binary_search_by_key(&low, |item| u64::from(item.low))
}

fn rebase(items: &mut [Item], old: u64, new: u64) {
    let shift = (new - old) as u32;
    let mut items = items.iter_mut();
    if let Some(first) = items.next() {
        first.low = 0;
    }
    items.for_each(|item| item.low -= shift);
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use super::*;

    fn one(recipient: u16, attempts: u16) -> Outstanding {
        Outstanding { recipient, state: RetryState { attempts, due: 7 }, state_segment: 3 }
    }

    #[test]
    fn the_index_agrees_with_a_plain_map_over_random_work() {
        let mut random = fastrand::Rng::with_seed(7);
        let mut index = Index::default();
        let mut model: BTreeMap<u64, (u32, Vec<Outstanding>)> = BTreeMap::new();
        let mut next = 5_u64;
        for step in 0..60_000_u32 {
            // Phases of growth and of decline, with jumps as after restarts.
            let is_growing = step / 10_000 % 2 == 0;
            if random.u32(..1000) == 0 {
                next += if random.bool() { 65_536 } else { 1 << 33 };
            }
            let pick = |random: &mut fastrand::Rng, model: &BTreeMap<u64, _>| {
                let from = model.keys().next().copied().unwrap_or(0);
                let at = random.u64(from..=next);
                model.range(at..).next().map(|(id, _)| *id)
            };
            if random.f32() < if is_growing { 0.8 } else { 0.1 } {
                // Batches become durable out of the order of their ids.
                let id = if random.u8(..4) == 0 { next + 1 } else { next };
                let id = if model.contains_key(&id) { next + 2 } else { id };
                next = next.max(id) + u64::from(random.u8(..3));
                let recipients = if random.u8(..5) == 0 { random.u16(2..6) } else { 1 };
                let list: Vec<_> = (0..recipients).map(|recipient| one(recipient, 0)).collect();
                if model.contains_key(&id) {
                    continue;
                }
                index.insert(MessageId(id), step, 1, 2, list.clone());
                model.insert(id, (step, list));
            } else if let Some(id) = pick(&mut random, &model) {
                let list = &mut model.get_mut(&id).unwrap().1;
                let at = random.usize(..list.len());
                if random.bool() {
                    let new = one(list[at].recipient, list[at].state.attempts + 1);
                    assert_eq!(index.defer(MessageId(id), new), Some(list[at]));
                    list[at] = new;
                } else {
                    let gone = list.remove(at);
                    let remain = !list.is_empty();
                    assert_eq!(index.complete(MessageId(id), gone.recipient), Some((gone, remain)));
                    if !remain {
                        model.remove(&id);
                        assert!(index.remove(MessageId(id)).is_some());
                    }
                }
            }
            assert_eq!(index.len(), model.len() as u64);
            if step % 1000 == 0 {
                for (id, (segment, list)) in &model {
                    let entry = index.get(MessageId(*id)).unwrap();
                    assert_eq!(entry.segment, *segment);
                    assert_eq!(&index.outstanding(&entry), list);
                }
            }
        }
    }

    #[test]
    fn a_message_with_one_recipient_takes_28_bytes_in_its_leaf() {
        assert_eq!(size_of::<Item>(), 28);
    }

    /// Bytes of the leaves, and of the tree that holds them with a generous allowance a leaf.
    fn bytes_per_message(index: &Index) -> f64 {
        let leaves: usize = index.leaves.values().map(|leaf| leaf.capacity() * size_of::<Item>() + 96).sum();
        leaves as f64 / index.len() as f64
    }

    #[test]
    fn a_message_with_one_recipient_takes_less_than_48_bytes_whether_many_or_few_of_its_time_are_left() {
        let fresh = || vec![one(0, 0)];
        let mut random = fastrand::Rng::with_seed(9);
        for kept in [1.0, 0.5, 0.1, 0.02] {
            let mut index = Index::default();
            // Messages stay for a while, and then some share of them stays for long.
            let mut young = std::collections::VecDeque::new();
            let mut id = 0;
            while index.len() < 300_000 {
                id += 1;
                index.insert(MessageId(id), 1, 2, 3, fresh());
                young.push_back(id);
                if young.len() > 5000
                    && let Some(old) = young.pop_front()
                    && random.f64() >= kept
                {
                    index.remove(MessageId(old));
                }
            }
            let bytes = bytes_per_message(&index);
            eprintln!("{bytes:.1} bytes a message where {kept} of all stay");
            assert!(bytes < 48.0, "{bytes:.1} bytes a message where {kept} of all stay");
        }
    }

    #[test]
    #[ignore = "takes half a gigabyte; prints the resident memory of five million messages"]
    fn five_million_messages_in_resident_memory() {
        let resident = || {
            let text = std::fs::read_to_string("/proc/self/statm").unwrap_or_default();
            let pages: u64 = text.split(' ').nth(1).and_then(|field| field.parse().ok()).unwrap_or(0);
            pages * 4096
        };
        let before = resident();
        let mut index = Index::default();
        for id in 1..=5_000_000 {
            index.insert(MessageId(id), 1, 2, 3, vec![one(0, 0)]);
        }
        let bytes = (resident() - before) as f64 / 5e6;
        eprintln!("{bytes:.1} bytes a message, resident, for {} messages", index.len());
        assert!(bytes < 48.0);
    }
}
