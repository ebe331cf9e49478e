//! The queue: who is waiting for what. One small queue for each stream and
//! recipient domain, entries of 24 bytes, bodies on disk.
//!
//! Pure: time is passed in as Unix seconds, and the cached message is a type
//! parameter. Every entry is in exactly one place: ready, waiting, or taken.

use std::cmp::Reverse;
use std::collections::{BinaryHeap, HashMap, VecDeque};
use std::sync::Arc;

use smallvec::SmallVec;

/// A stream's number, for as long as the process runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct StreamId(pub u16);

/// A recipient domain's number, for as long as the process runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct DomainId(pub u32);

/// One queue's number. Never used again, so that a number kept too long names nothing and not somebody else's mail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct QueueId(pub u64);

/// One recipient of one message.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Entry {
    /// Spool number of the message.
    pub message: u64,
    /// When it is to be tried, Unix seconds.
    pub due: u32,
    /// When it was accepted, Unix seconds.
    pub received: u32,
    /// Index of the recipient in the envelope.
    pub recipient: u16,
    /// Attempts so far, and [`Entry::DELAY_NOTIFIED`].
    pub attempts: u16,
}

impl Entry {
    /// Bit of `attempts`: the sender has been told of the delay.
    pub const DELAY_NOTIFIED: u16 = 0x8000;

    /// Attempts so far, without the flag.
    pub fn tries(&self) -> u16 {
        self.attempts & !Self::DELAY_NOTIFIED
    }
}

/// A waiting entry, ordered by due time and then by age.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Waiting(Entry);

impl Ord for Waiting {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        let key = |waiting: &Self| (waiting.0.due, waiting.0.message, waiting.0.recipient);
        key(self).cmp(&key(other))
    }
}

impl PartialOrd for Waiting {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}

/// Mail of one stream for one domain.
#[derive(Debug)]
struct DomainQueue<M> {
    stream: StreamId,
    domain: DomainId,
    ready: VecDeque<(Entry, Option<Arc<M>>)>,
    waiting: BinaryHeap<Reverse<Waiting>>,
    taken: u32,
    /// The due time under which this queue stands in the wheel; `u32::MAX`: it does not.
    scheduled: u32,
    /// A bound: no entry was received before.
    oldest: u32,
    last_error: Option<Arc<str>>,
}

/// Numbers about one queue, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QueueView {
    /// Its number.
    pub id: QueueId,
    /// Its stream.
    pub stream: StreamId,
    /// Its domain.
    pub domain: DomainId,
    /// Entries that could go now.
    pub ready: usize,
    /// Entries that wait for their time.
    pub waiting: usize,
    /// Entries that a connection holds.
    pub taken: u32,
    /// Next due time, Unix seconds.
    pub next_due: Option<u32>,
    /// Why the last attempt failed.
    pub last_error: Option<Arc<str>>,
}

/// A handful of recipients of one message, taken for one transaction.
#[derive(Debug)]
pub struct Taken<M> {
    /// The recipients; never empty, all of one message.
    pub entries: SmallVec<[Entry; 2]>,
    /// The message, if it was still in memory.
    pub message: Option<Arc<M>>,
}

/// All queues.
#[derive(Debug)]
pub struct Queues<M> {
    queues: HashMap<QueueId, DomainQueue<M>>,
    next: u64,
    by_key: HashMap<(StreamId, DomainId), QueueId>,
    wheel: BinaryHeap<Reverse<(u32, QueueId)>>,
    entries: usize,
}

impl<M> Default for Queues<M> {
    fn default() -> Self {
        Self { queues: HashMap::new(), next: 0, by_key: HashMap::new(), wheel: BinaryHeap::new(), entries: 0 }
    }
}

impl<M> Queues<M> {
    /// Entries in all queues, taken ones included.
    pub fn len(&self) -> usize {
        self.entries
    }

    /// True when nothing is queued.
    pub fn is_empty(&self) -> bool {
        self.entries == 0
    }

    /// The queue for a stream and a domain; made when there is none.
    pub fn queue(&mut self, stream: StreamId, domain: DomainId) -> QueueId {
        if let Some(id) = self.by_key.get(&(stream, domain)) {
            return *id;
        }
        let queue = DomainQueue {
            stream,
            domain,
            ready: VecDeque::new(),
            waiting: BinaryHeap::new(),
            taken: 0,
            scheduled: u32::MAX,
            oldest: u32::MAX,
            last_error: None,
        };
        let id = QueueId(self.next);
        self.next += 1;
        self.queues.insert(id, queue);
        self.by_key.insert((stream, domain), id);
        id
    }

    /// Stream and domain of a queue.
    pub fn key(&self, id: QueueId) -> Option<(StreamId, DomainId)> {
        self.get(id).map(|queue| (queue.stream, queue.domain))
    }

    /// Adds an entry that may go at once.
    pub fn push_ready(&mut self, id: QueueId, entry: Entry, message: Option<Arc<M>>) {
        self.entries += 1;
        if let Some(queue) = self.get_mut(id) {
            queue.oldest = queue.oldest.min(entry.received);
            queue.ready.push_back((entry, message));
        }
    }

    /// Adds an entry whose end is decided already: it counts as taken until it is finished.
    pub fn push_taken(&mut self, id: QueueId, entry: &Entry) {
        self.entries += 1;
        if let Some(queue) = self.get_mut(id) {
            queue.oldest = queue.oldest.min(entry.received);
            queue.taken += 1;
        }
    }

    /// Adds an entry that waits for `entry.due`.
    pub fn push_waiting(&mut self, id: QueueId, entry: Entry) {
        self.entries += 1;
        if let Some(queue) = self.get_mut(id) {
            queue.oldest = queue.oldest.min(entry.received);
            queue.waiting.push(Reverse(Waiting(entry)));
        }
        self.schedule(id);
    }

    /// Moves what is due at `now` to the ready side, at most `most` entries,
    /// and names the queues that gained. Call again while it returns some.
    pub fn promote(&mut self, now: u32, most: usize) -> Vec<QueueId> {
        let mut gained = Vec::new();
        let mut left = most;
        while left > 0 {
            let Some(&Reverse((due, id))) = self.wheel.peek() else { break };
            if due > now {
                break;
            }
            self.wheel.pop();
            let Some(queue) = self.get_mut(id) else { continue };
            if queue.scheduled != due {
                continue; // an older place in the wheel
            }
            queue.scheduled = u32::MAX;
            let before = left;
            while left > 0 {
                let Some(Reverse(Waiting(entry))) = queue.waiting.peek().copied() else { break };
                if entry.due > now {
                    break;
                }
                queue.waiting.pop();
                queue.ready.push_back((entry, None));
                left -= 1;
            }
            if left != before {
                gained.push(id);
            }
            self.schedule(id);
        }
        gained
    }

    /// When `promote` will next have something to do.
    pub fn next_due(&self) -> Option<u32> {
        self.wheel.peek().map(|Reverse((due, _))| *due)
    }

    /// Entries of this queue that could go now.
    pub fn ready(&self, id: QueueId) -> usize {
        self.get(id).map_or(0, |queue| queue.ready.len())
    }

    /// Takes the oldest ready message with up to `most` of its recipients.
    pub fn take(&mut self, id: QueueId, most: usize) -> Option<Taken<M>> {
        let queue = self.get_mut(id)?;
        let (first, message) = queue.ready.pop_front()?;
        let mut entries = SmallVec::new();
        entries.push(first);
        while entries.len() < most {
            match queue.ready.front() {
                Some((next, _)) if next.message == first.message => entries.push(*next),
                _ => break,
            }
            queue.ready.pop_front();
        }
        queue.taken += entries.len() as u32;
        Some(Taken { entries, message })
    }

    /// Puts a taken entry back: to wait for `entry.due`.
    pub fn defer(&mut self, id: QueueId, entry: Entry, error: Option<Arc<str>>) {
        if let Some(queue) = self.get_mut(id) {
            queue.taken = queue.taken.saturating_sub(1);
            queue.oldest = queue.oldest.min(entry.received);
            queue.waiting.push(Reverse(Waiting(entry)));
            queue.last_error = error.or(queue.last_error.take());
        }
        self.schedule(id);
    }

    /// Puts taken entries back to the front, untouched: nothing was tried.
    pub fn give_back(&mut self, id: QueueId, taken: Taken<M>) {
        if let Some(queue) = self.get_mut(id) {
            for entry in taken.entries.into_iter().rev() {
                queue.taken = queue.taken.saturating_sub(1);
                queue.oldest = queue.oldest.min(entry.received);
                queue.ready.push_front((entry, taken.message.clone()));
            }
        }
    }

    /// A taken entry has reached its end.
    pub fn finish(&mut self, id: QueueId) {
        if let Some(queue) = self.get_mut(id) {
            queue.taken = queue.taken.saturating_sub(1);
            self.entries = self.entries.saturating_sub(1);
        }
        self.drop_if_empty(id);
    }

    /// Removes the ready and waiting entries that `matches` accepts, in one pass, and
    /// counts them as taken, so that they can be finished or deferred.
    pub fn extract(&mut self, id: QueueId, mut matches: impl FnMut(&Entry) -> bool) -> Vec<Entry> {
        let Some(queue) = self.get_mut(id) else { return Vec::new() };
        let mut out = Vec::new();
        let mut oldest = u32::MAX;
        let mut stays = |entry: &Entry| {
            if matches(entry) {
                out.push(*entry);
                false
            } else {
                oldest = oldest.min(entry.received);
                true
            }
        };
        queue.ready.retain(|(entry, _)| stays(entry));
        let mut heap = std::mem::take(&mut queue.waiting).into_vec();
        heap.retain(|Reverse(Waiting(entry))| stays(entry));
        queue.waiting = heap.into();
        // What is taken brings its age along when it comes back.
        queue.oldest = oldest;
        queue.taken += out.len() as u32;
        out
    }

    /// Makes waiting entries of a queue ready now; returns how many.
    pub fn retry_now(&mut self, id: QueueId) -> usize {
        let Some(queue) = self.get_mut(id) else { return 0 };
        let mut waiting = std::mem::take(&mut queue.waiting).into_vec();
        waiting.sort_unstable_by_key(|Reverse(waiting)| *waiting);
        let count = waiting.len();
        queue.ready.extend(waiting.into_iter().map(|Reverse(Waiting(entry))| (entry, None)));
        queue.scheduled = u32::MAX;
        count
    }

    /// Entries that are ready, that wait, and that are taken, over all queues.
    pub fn totals(&self) -> (u64, u64, u64) {
        self.queues.values().fold((0, 0, 0), |(ready, waiting, taken), queue| {
            (ready + queue.ready.len() as u64, waiting + queue.waiting.len() as u64, taken + u64::from(queue.taken))
        })
    }

    /// Entries of each stream that has any, taken ones included, in no order.
    pub fn by_stream(&self) -> HashMap<StreamId, u64> {
        let mut streams = HashMap::new();
        for queue in self.queues.values() {
            let entries = (queue.ready.len() + queue.waiting.len()) as u64 + u64::from(queue.taken);
            if entries > 0 {
                *streams.entry(queue.stream).or_default() += entries;
            }
        }
        streams
    }

    /// The queues that have ready entries, in no order.
    pub fn with_ready(&self) -> Vec<QueueId> {
        self.queues.iter().filter(|(_, queue)| !queue.ready.is_empty()).map(|(id, _)| *id).collect()
    }

    /// No entry of the queue was received before this, Unix seconds.
    pub fn oldest(&self, id: QueueId) -> u32 {
        self.get(id).map_or(u32::MAX, |queue| queue.oldest)
    }

    /// Number, stream and domain of every queue, in no order.
    pub fn keys(&self) -> impl Iterator<Item = (QueueId, StreamId, DomainId)> + '_ {
        self.queues.iter().map(|(id, queue)| (*id, queue.stream, queue.domain))
    }

    /// Every queue, in no order.
    pub fn views(&self) -> impl Iterator<Item = QueueView> + '_ {
        self.queues.keys().filter_map(|id| self.view(*id))
    }

    /// One queue.
    pub fn view(&self, id: QueueId) -> Option<QueueView> {
        let queue = self.get(id)?;
        Some(QueueView {
            id,
            stream: queue.stream,
            domain: queue.domain,
            ready: queue.ready.len(),
            waiting: queue.waiting.len(),
            taken: queue.taken,
            next_due: queue.waiting.peek().map(|Reverse(Waiting(entry))| entry.due),
            last_error: queue.last_error.clone(),
        })
    }

    /// Entries of a queue, taken ones included.
    pub fn size(&self, id: QueueId) -> usize {
        self.get(id).map_or(0, |queue| queue.ready.len() + queue.waiting.len() + queue.taken as usize)
    }

    /// Forgets a queue that holds nothing.
    pub fn drop_if_empty(&mut self, id: QueueId) {
        let empty =
            self.get(id).is_some_and(|queue| queue.ready.is_empty() && queue.waiting.is_empty() && queue.taken == 0);
        if empty && let Some(queue) = self.queues.remove(&id) {
            self.by_key.remove(&(queue.stream, queue.domain));
        }
    }

    fn get(&self, id: QueueId) -> Option<&DomainQueue<M>> {
        self.queues.get(&id)
    }

    fn get_mut(&mut self, id: QueueId) -> Option<&mut DomainQueue<M>> {
        self.queues.get_mut(&id)
    }

    fn schedule(&mut self, id: QueueId) {
        let Some(queue) = self.get_mut(id) else { return };
        let Some(Reverse(Waiting(first))) = queue.waiting.peek() else { return };
        if first.due < queue.scheduled {
            queue.scheduled = first.due;
            let place = Reverse((first.due, id));
            self.wheel.push(place);
        }
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn entry(message: u64, due: u32) -> Entry {
        Entry { message, due, received: 0, recipient: 0, attempts: 0 }
    }

    #[test]
    fn an_entry_of_a_deferred_recipient_is_24_bytes() {
        assert_eq!(size_of::<Entry>(), 24);
        assert_eq!(size_of::<Reverse<Waiting>>(), 24);
    }

    #[test]
    fn due_entries_come_out_in_order_and_not_before_their_time() {
        let mut queues: Queues<()> = Queues::default();
        let id = queues.queue(StreamId(0), DomainId(0));
        for due in [30, 10, 20, 10] {
            queues.push_waiting(id, entry(due.into(), due));
        }
        assert!(queues.promote(9, 100).is_empty());
        assert_eq!(queues.promote(20, 100), [id]);
        assert_eq!(queues.ready(id), 3);
        assert_eq!(queues.next_due(), Some(30));
        assert_eq!(queues.take(id, 1).unwrap().entries[0].due, 10);
    }

    #[test]
    fn recipients_of_one_message_travel_together_up_to_the_limit() {
        let mut queues: Queues<u8> = Queues::default();
        let id = queues.queue(StreamId(0), DomainId(0));
        let message = Arc::new(1);
        for recipient in 0..5 {
            queues.push_ready(id, Entry { recipient, ..entry(1, 0) }, Some(message.clone()));
        }
        queues.push_ready(id, entry(2, 0), None);
        assert_eq!(queues.take(id, 3).unwrap().entries.len(), 3);
        assert_eq!(queues.take(id, 3).unwrap().entries.len(), 2);
        let last = queues.take(id, 3).unwrap();
        assert_eq!(last.entries.len(), 1);
        assert!(last.message.is_none());
        queues.give_back(id, last);
        assert_eq!(queues.ready(id), 1);
    }

    #[test]
    fn entries_are_counted_by_stream_wherever_they_are() {
        let mut queues: Queues<()> = Queues::default();
        for (stream, domain) in [(0, 1), (0, 2), (1, 1)] {
            let id = queues.queue(StreamId(stream), DomainId(domain));
            queues.push_ready(id, entry(1, 0), None);
            queues.push_waiting(id, entry(2, 30));
        }
        let id = queues.queue(StreamId(1), DomainId(1));
        queues.take(id, 1);
        assert_eq!(queues.by_stream(), HashMap::from([(StreamId(0), 4), (StreamId(1), 2)]));
    }

    #[test]
    fn a_queue_vanishes_with_its_last_entry_and_its_number_never_names_another() {
        let mut queues: Queues<()> = Queues::default();
        let id = queues.queue(StreamId(0), DomainId(7));
        queues.push_ready(id, entry(1, 0), None);
        queues.take(id, 1);
        queues.finish(id);
        assert!(queues.is_empty());
        assert_eq!(queues.key(id), None);
        assert_ne!(queues.queue(StreamId(1), DomainId(8)), id);
        assert_ne!(queues.queue(StreamId(0), DomainId(7)), id);
    }

    proptest! {
        /// Whatever is done to the queue, every entry is in exactly one place.
        #[test]
        fn no_entry_is_lost_or_doubled(steps in proptest::collection::vec((0u8..9, 0u32..50), 1..200)) {
            let mut queues: Queues<()> = Queues::default();
            let mut held: Vec<(QueueId, Entry)> = Vec::new();
            let mut alive = std::collections::BTreeSet::new();
            let mut next = 0u64;
            let mut now = 0u32;
            for (kind, value) in steps {
                let id = queues.queue(StreamId((value % 2) as u16), DomainId(value % 3));
                match kind {
                    0 => { queues.push_ready(id, entry(next, 0), None); alive.insert(next); next += 1; }
                    1 => { queues.push_waiting(id, entry(next, now + value)); alive.insert(next); next += 1; }
                    2 => { now += value; queues.promote(now, value as usize); }
                    3 => if let Some(taken) = queues.take(id, 2) { held.extend(taken.entries.iter().map(|e| (id, *e))); },
                    4 => if let Some((id, e)) = held.pop() { queues.defer(id, Entry { due: now + value, ..e }, None); },
                    5 => if let Some((id, e)) = held.pop() { alive.remove(&e.message); queues.finish(id); },
                    6 => held.extend(queues.extract(id, |e| e.message % 3 == u64::from(value % 3)).into_iter().map(|e| (id, e))),
                    7 => if let Some(taken) = queues.take(id, 2) { queues.give_back(id, taken); },
                    _ => { queues.retry_now(id); }
                }
                prop_assert_eq!(queues.len(), alive.len());
                let seen: usize = queues.views().map(|v| v.ready + v.waiting + v.taken as usize).sum();
                prop_assert_eq!(seen, alive.len());
            }
            queues.promote(u32::MAX, usize::MAX);
            let ids: Vec<_> = queues.views().map(|v| v.id).collect();
            let mut found: Vec<u64> = held.iter().map(|(_, e)| e.message).collect();
            for id in ids {
                while let Some(taken) = queues.take(id, 9) { found.extend(taken.entries.iter().map(|e| e.message)); }
            }
            found.sort_unstable();
            prop_assert_eq!(found, alive.into_iter().collect::<Vec<_>>());
        }
    }
}
