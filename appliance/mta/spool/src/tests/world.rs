//! A log on the simulated disk beside a model of what was promised. The model knows what was
//! asked, what was answered, and so what must be there, must not be there, and may be there.

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use bytes::Bytes;

use super::disk::SimDisk;
use crate::group::Pending;
use crate::log::{Log, Settings};
use crate::operation::TicketState;
use crate::replay::Repair;
use crate::{MessageId, NewMessage, Operation, RetryState, SubmitError, Ticket};

/// What a start found: received, metadata and outstanding recipients of each message.
type Found = BTreeMap<u64, (u32, Bytes, Vec<(u16, RetryState)>)>;

pub(crate) const SEGMENT: u64 = 16 << 10;

#[derive(Clone, Copy, PartialEq, Debug)]
enum Standing {
    Asked,
    Accepted,
    Refused,
}

#[derive(Clone, Copy, PartialEq, Debug)]
enum Done {
    No,
    Asked,
    Yes,
}

struct Recipient {
    done: Done,
    state: RetryState,
    asked: Vec<RetryState>,
}

struct Message {
    standing: Standing,
    received: u32,
    metadata: Bytes,
    body: [Bytes; 2],
    recipients: Vec<Recipient>,
}

#[derive(Default)]
struct Note {
    value: Bytes,
    asked: Vec<Bytes>,
}

pub(crate) struct World {
    pub(crate) disk: SimDisk,
    pub(crate) log: Option<Log<SimDisk>>,
    pub(crate) random: fastrand::Rng,
    pub(crate) settings: Settings,
    /// Damage is expected only where a test makes it.
    pub(crate) may_be_damaged: bool,
    pub(crate) repairs: Vec<Repair>,
    pub(crate) outcomes: BTreeMap<&'static str, u64>,
    messages: BTreeMap<u64, Message>,
    notes: BTreeMap<Bytes, Note>,
    open: Vec<(Vec<Operation>, Ticket)>,
    run_ids: BTreeSet<u64>,
}

impl World {
    pub(crate) fn new(seed: u64) -> Self {
        let mut settings = Settings::new("/spool");
        settings.segment_size = SEGMENT;
        settings.minimum_free = SEGMENT * 2;
        Self {
            disk: SimDisk::new(seed),
            log: None,
            random: fastrand::Rng::with_seed(seed ^ 0x5eed),
            settings,
            may_be_damaged: false,
            repairs: Vec::new(),
            outcomes: BTreeMap::new(),
            messages: BTreeMap::new(),
            notes: BTreeMap::new(),
            open: Vec::new(),
            run_ids: BTreeSet::new(),
        }
    }

    fn count(&mut self, what: &'static str) {
        *self.outcomes.entry(what).or_default() += 1;
    }

    /// Opens the log, and holds what it tells against the model. False when the storage failed.
    pub(crate) fn open(&mut self) -> bool {
        assert!(self.log.is_none());
        let mut found = BTreeMap::new();
        let opened = Log::open(self.settings.clone(), self.disk.clone(), |one| {
            let facts = (one.received, one.metadata.clone(), one.outstanding.to_vec());
            let is_new = found.insert(one.id.0, facts).is_none();
            assert!(is_new, "{} was told twice", one.id);
        });
        let (log, recovery) = match opened {
            Ok(opened) => opened,
            Err(error) => {
                self.count("open failed");
                assert!(matches!(error, crate::OpenError::Storage { .. }), "{error}");
                return false;
            }
        };
        self.count("opened");
        assert_eq!(recovery.messages, found.len() as u64);
        let recipients: usize = found.values().map(|facts| facts.2.len()).sum();
        assert_eq!(recovery.recipients, recipients as u64);
        for repair in &recovery.repairs {
            let is_torn = matches!(repair, Repair::TornTail { .. });
            assert!(is_torn || self.may_be_damaged, "{repair}");
        }
        self.repairs = recovery.repairs;
        self.log = Some(log);
        self.open.clear();
        self.run_ids.clear();
        self.adopt(&found);
        self.adopt_notes(&recovery.notes);
        true
    }

    fn adopt(&mut self, found: &Found) {
        for (id, (received, metadata, outstanding)) in found {
            let id_text = MessageId(*id);
            let message = self.messages.get_mut(id).unwrap_or_else(|| panic!("{id_text} was never submitted"));
            assert!(message.standing != Standing::Refused, "{id_text} was refused and is there");
            message.standing = Standing::Accepted;
            assert_eq!((message.received, &message.metadata), (*received, metadata));
            let mut there: BTreeMap<u16, RetryState> = outstanding.iter().copied().collect();
            for (number, recipient) in message.recipients.iter_mut().enumerate() {
                match there.remove(&(number as u16)) {
                    Some(state) => {
                        assert!(recipient.done != Done::Yes, "{id_text}/{number} was complete and came back");
                        let is_known = state == recipient.state || recipient.asked.contains(&state);
                        assert!(is_known, "{id_text}/{number} has the state {state:?}, not {:?}", recipient.state);
                        *recipient = Recipient { done: Done::No, state, asked: Vec::new() };
                    }
                    None => {
                        assert!(recipient.done != Done::No, "{id_text}/{number} was not complete and is gone");
                        recipient.done = Done::Yes;
                    }
                }
            }
            assert!(there.is_empty());
        }
        for (id, message) in &mut self.messages {
            if found.contains_key(id) {
                continue;
            }
            match message.standing {
                Standing::Accepted => {
                    for (number, recipient) in message.recipients.iter_mut().enumerate() {
                        assert!(recipient.done != Done::No, "{}/{number} was accepted and is gone", MessageId(*id));
                        recipient.done = Done::Yes;
                    }
                }
                // The crash came before the answer; it may never come back now.
                Standing::Asked => message.standing = Standing::Refused,
                Standing::Refused => {}
            }
        }
    }

    fn adopt_notes(&mut self, found: &[(Bytes, Bytes)]) {
        let found: BTreeMap<_, _> = found.iter().cloned().collect();
        for key in found.keys() {
            assert!(self.notes.contains_key(key));
        }
        for (key, note) in &mut self.notes {
            let value = found.get(key).cloned().unwrap_or_default();
            assert!(
                value == note.value || note.asked.contains(&value),
                "note {key:?} is {value:?}, not {:?} or one of {:?}",
                note.value,
                note.asked
            );
            *note = Note { value, asked: Vec::new() };
        }
    }

    /// The process dies.
    pub(crate) fn crash(&mut self, power: bool) {
        self.collect();
        self.count(if power { "power lost" } else { "killed" });
        self.log = None;
        self.open.clear();
        self.disk.crash(power);
    }

    pub(crate) fn new_message(&mut self, size: usize, recipients: u16) -> NewMessage {
        let log = self.log.as_ref().unwrap();
        let id = log.shared.next_id.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        // Only ids of a run in which nothing at all became durable may come again.
        let is_above = self.messages.range(id..).all(|(_, message)| message.standing == Standing::Refused);
        assert!(is_above, "{id} is not above all earlier ids");
        assert!(self.run_ids.insert(id), "{id} was given out twice in a run");
        let random = &mut self.random;
        let mut bytes = |length: usize| -> Bytes {
            let seed = random.u8(..);
            // Runs and noise, and now and then what looks like a frame.
            let mut data: Vec<u8> = (0..length).map(|at| seed.wrapping_add((at / 7) as u8)).collect();
            if length > 64 && random.u8(..4) == 0 {
                let at = random.usize(..length - 32);
                data[at..at + 4].copy_from_slice(b"PkFr");
            }
            data.into()
        };
        let prefix = bytes(size / 10);
        let content = bytes(size - size / 10);
        let metadata_length = 10 + id as usize % 90;
        NewMessage {
            id: MessageId(id),
            received: id as u32,
            metadata: bytes(metadata_length),
            body: [prefix, content],
            recipients,
        }
    }

    /// A batch of one message of this size.
    pub(crate) fn accept(&mut self, size: usize) -> (u64, Vec<Operation>) {
        let recipients = if self.random.u8(..4) == 0 { self.random.u16(2..6) } else { 1 };
        let message = self.new_message(size, recipients);
        (message.id.0, vec![Operation::Accept(message)])
    }

    pub(crate) fn random_batch(&mut self) -> Vec<Operation> {
        let mut batch = Vec::new();
        let choice = self.random.u8(..100);
        if choice < 40 {
            let size = match self.random.u8(..20) {
                0 => 0,
                1 => self.random.usize(..SEGMENT as usize * 2),
                _ => self.random.usize(..2000),
            };
            batch.extend(self.accept(size).1);
            if self.random.u8(..8) == 0 {
                batch.extend(self.accept(300).1);
            }
            if self.random.u8(..6) == 0 {
                batch.extend(self.random_change());
            }
        } else if choice < 90 {
            for _ in 0..self.random.u8(1..4) {
                batch.extend(self.random_change());
            }
        } else {
            let key = Bytes::from(format!("key {}", self.random.u8(..6)));
            let value = if self.random.u8(..4) == 0 {
                Bytes::new()
            } else {
                Bytes::from(format!("value {}", self.random.u16(..)))
            };
            batch.push(Operation::Note { key, value });
        }
        batch
    }

    fn random_change(&mut self) -> Option<Operation> {
        // Mostly the old ones stay for long and the young ones go soon.
        let live: Vec<(u64, u16)> = self
            .messages
            .iter()
            .rev()
            .filter(|(_, message)| message.standing != Standing::Refused)
            .flat_map(|(id, message)| {
                let open = message.recipients.iter().enumerate();
                open.filter(|(_, one)| one.done == Done::No).map(|(number, _)| (*id, number as u16))
            })
            .take(200)
            .collect();
        if live.is_empty() {
            return None;
        }
        let skew = self.random.f32();
        let at = (skew * skew * live.len() as f32) as usize;
        let (id, recipient) = live[at.min(live.len() - 1)];
        let id = MessageId(id);
        Some(if self.random.u8(..3) == 0 {
            let state = RetryState { attempts: self.random.u16(1..100), due: self.random.u32(..) };
            Operation::Defer { id, recipient, state }
        } else {
            Operation::Complete { id, recipient }
        })
    }

    /// Submits the batches as one call of the committer, and notes the answers.
    pub(crate) fn commit(&mut self, batches: Vec<Vec<Operation>>) {
        let mut pending = Vec::new();
        for batch in batches {
            if batch.is_empty() {
                continue;
            }
            self.ask(&batch);
            let (one, receiver) = Pending::new(batch.iter().cloned().collect());
            pending.push(one);
            self.open.push((batch, Ticket(TicketState::Waiting(receiver))));
        }
        if let Some(log) = &mut self.log {
            log.commit(&mut pending);
            assert!(pending.is_empty());
        }
        self.collect();
    }

    fn ask(&mut self, batch: &[Operation]) {
        for operation in batch {
            match operation {
                Operation::Accept(new) => {
                    let recipients = (0..new.recipients)
                        .map(|_| Recipient { done: Done::No, state: RetryState::default(), asked: Vec::new() })
                        .collect();
                    let message = Message {
                        standing: Standing::Asked,
                        received: new.received,
                        metadata: new.metadata.clone(),
                        body: new.body.clone(),
                        recipients,
                    };
                    self.messages.insert(new.id.0, message);
                }
                Operation::Complete { id, recipient } => {
                    if let Some(one) = self.recipient(*id, *recipient)
                        && one.done == Done::No
                    {
                        one.done = Done::Asked;
                    }
                }
                Operation::Defer { id, recipient, state } => {
                    if let Some(one) = self.recipient(*id, *recipient) {
                        one.asked.push(*state);
                    }
                }
                Operation::Note { key, value } => {
                    let note = self.notes.entry(key.clone()).or_default();
                    note.asked.push(value.clone());
                }
            }
        }
    }

    fn recipient(&mut self, id: MessageId, number: u16) -> Option<&mut Recipient> {
        self.messages.get_mut(&id.0)?.recipients.get_mut(usize::from(number))
    }

    /// Takes in the answers that are there.
    pub(crate) fn collect(&mut self) {
        let is_dead = self.disk.is_dead();
        let mut open = std::mem::take(&mut self.open);
        let mut rest = Vec::new();
        let mut refused = Vec::new();
        for (batch, mut ticket) in open.drain(..) {
            match ticket.try_answer() {
                Some(Ok(())) => self.acknowledge(&batch),
                // What is said after the power went is heard by nobody.
                Some(Err(_)) if is_dead => rest.push((batch, ticket)),
                Some(Err(error)) => refused.push((batch, error)),
                None => rest.push((batch, ticket)),
            }
        }
        self.open = rest;
        for (batch, error) in refused {
            self.refuse(&batch, &error);
        }
    }

    fn acknowledge(&mut self, batch: &[Operation]) {
        self.count("acknowledged");
        for operation in batch {
            match operation {
                Operation::Accept(new) => {
                    if let Some(message) = self.messages.get_mut(&new.id.0) {
                        message.standing = Standing::Accepted;
                    }
                }
                Operation::Complete { id, recipient } => {
                    if let Some(one) = self.recipient(*id, *recipient) {
                        one.done = Done::Yes;
                    }
                }
                Operation::Defer { id, recipient, state } => {
                    if let Some(one) = self.recipient(*id, *recipient)
                        && let Some(at) = one.asked.iter().position(|asked| asked == state)
                    {
                        one.asked.drain(..=at);
                        one.state = *state;
                    }
                }
                Operation::Note { key, value } => {
                    let note = self.notes.entry(key.clone()).or_default();
                    if let Some(at) = note.asked.iter().position(|asked| asked == value) {
                        note.asked.drain(..=at);
                        note.value = value.clone();
                    }
                }
            }
        }
    }

    fn refuse(&mut self, batch: &[Operation], error: &SubmitError) {
        let has_accept = batch.iter().any(|operation| matches!(operation, Operation::Accept(_)));
        assert!(has_accept, "a batch without an accept was refused: {error}");
        self.count(match error {
            SubmitError::Full => "refused: full",
            SubmitError::Storage { .. } => "refused: storage",
            other => panic!("{other}"),
        });
        for operation in batch {
            match operation {
                Operation::Accept(new) => {
                    if let Some(message) = self.messages.get_mut(&new.id.0) {
                        message.standing = Standing::Refused;
                    }
                }
                Operation::Complete { id, recipient } => {
                    // Refused with the rest of its batch: as if never asked. Another batch may
                    // have asked the same.
                    let asked_elsewhere = self.open.iter().any(|(batch, _)| {
                        batch.iter().any(|other| {
                            matches!(other, Operation::Complete { id: i, recipient: r }
                                if i == id && r == recipient)
                        })
                    });
                    if let Some(one) = self.recipient(*id, *recipient)
                        && one.done == Done::Asked
                        && !asked_elsewhere
                    {
                        one.done = Done::No;
                    }
                }
                Operation::Defer { id, recipient, state } => {
                    if let Some(one) = self.recipient(*id, *recipient)
                        && let Some(at) = one.asked.iter().position(|asked| asked == state)
                    {
                        one.asked.remove(at);
                    }
                }
                Operation::Note { .. } => {}
            }
        }
    }

    /// Reads messages back from the running log: right bytes, or rightly unknown.
    pub(crate) fn read_back(&mut self, how_many: usize) {
        let Some(log) = &self.log else { return };
        let ids: Vec<u64> = self.messages.keys().rev().take(300).copied().collect();
        for _ in 0..how_many {
            let Some(id) = self.random.choice(&ids) else {
                return;
            };
            let message = &self.messages[id];
            let read = log.shared.read(MessageId(*id));
            let is_live =
                message.standing == Standing::Accepted && message.recipients.iter().any(|one| one.done == Done::No);
            let is_gone =
                message.standing == Standing::Refused || message.recipients.iter().all(|one| one.done == Done::Yes);
            match read {
                Ok(stored) => {
                    assert!(!is_gone, "{} is gone and was read", MessageId(*id));
                    assert_eq!(stored.metadata, message.metadata);
                    assert_eq!(stored.prefix, message.body[0]);
                    assert_eq!(stored.content, message.body[1]);
                    assert_eq!(stored.received, message.received);
                    let meta = log.shared.read_metadata(MessageId(*id)).unwrap();
                    assert_eq!(meta.metadata, message.metadata);
                    assert_eq!(meta.outstanding, stored.outstanding);
                }
                Err(crate::ReadError::Unknown(_)) => {
                    assert!(!is_live, "{} is live and unknown", MessageId(*id));
                }
                Err(error) => panic!("{error}"),
            }
        }
    }

    /// Every message that must be there is read back, byte for byte.
    pub(crate) fn read_all(&mut self) -> usize {
        let log = self.log.as_ref().unwrap();
        let mut count = 0;
        for (id, message) in &self.messages {
            let is_live =
                message.standing == Standing::Accepted && message.recipients.iter().any(|one| one.done == Done::No);
            if is_live {
                let stored = log.shared.read(MessageId(*id)).unwrap();
                assert_eq!(stored.prefix, message.body[0]);
                assert_eq!(stored.content, message.body[1]);
                count += 1;
            }
        }
        count
    }

    /// Completes every recipient.
    pub(crate) fn complete_all(&mut self) {
        let all: Vec<Operation> = self
            .messages
            .iter()
            .filter(|(_, message)| message.standing == Standing::Accepted)
            .flat_map(|(id, message)| {
                let open = message.recipients.iter().enumerate();
                open.filter(|(_, one)| one.done != Done::Yes)
                    .map(|(number, _)| Operation::Complete { id: MessageId(*id), recipient: number as u16 })
            })
            .collect();
        for part in all.chunks(40) {
            self.commit(vec![part.to_vec()]);
        }
    }

    /// Ticks and housework, until nothing is left to do.
    pub(crate) fn rest(&mut self) {
        for round in 0.. {
            assert!(round < 3000, "the housework never ends");
            let Some(log) = &mut self.log else { return };
            if round % 10 == 0 {
                log.tick();
            }
            log.housekeep();
            let has_work = log.has_work();
            self.commit(Vec::new());
            if !has_work && round % 10 == 9 && self.log.as_ref().is_some_and(|log| !log.has_work()) {
                return;
            }
        }
    }

    pub(crate) fn has_open_tickets(&self) -> bool {
        !self.open.is_empty()
    }

    pub(crate) fn segment_names(&self) -> Vec<String> {
        let mut names = self.disk.names();
        names.retain(|name| name.ends_with(".segment"));
        names
    }

    pub(crate) fn directory(&self) -> &Path {
        &self.settings.directory
    }
}
