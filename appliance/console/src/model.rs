//! The screen as a state machine: a model, events, and what follows from them. No terminal, no socket, no clock.

use std::collections::VecDeque;
use std::time::Duration;

use crate::code::{self, CodeError};
use crate::custody::Pasted;
use crate::deed::Deed;
use crate::facts::{Facts, Volume};
use crate::form::Form;
use crate::plain::clean;
use crate::wire::{Reply, Request, Who};

/// Lines of the log that are kept.
pub const LOG: usize = 50;
/// Characters of an answer that can be typed: more than it has, with separators.
const LONGEST_ANSWER: usize = 400;
const LONGEST_TEXT: usize = 600;
/// Characters that are looked at of what is pasted where an answer of a custodian is awaited.
const LONGEST_PASTE: usize = 16 << 10;

/// A key that means something here.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Key {
    /// A character.
    Char(char),
    /// Enter.
    Enter,
    /// Escape.
    Escape,
    /// Tab.
    Tab,
    /// Tab with shift.
    BackTab,
    /// Arrow.
    Up,
    /// Arrow.
    Down,
    /// Arrow.
    Left,
    /// Arrow.
    Right,
    /// Backspace or delete.
    Backspace,
    /// Control and U: empty the field.
    Empty,
    /// Control and L: draw everything again.
    Redraw,
    /// Control and X, twice: seal a box that custodians open.
    SealNow,
}

/// Something that happened.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// A key was pressed.
    Key(Key),
    /// Text came at once.
    Paste(String),
    /// Time has passed.
    Tick,
    /// The machine was looked at.
    Facts(Box<Facts>),
    /// A line of the log, cleaned already or not.
    Log(String),
    /// Which machine this is and whose, asked now and then; or why nobody says.
    Who(Result<Who, String>),
    /// The privileged part has answered an action, or could not be reached.
    Reply(Result<Reply, String>),
    /// What became of a custodian's answer.
    HandedOver(Result<String, String>),
}

/// Something to do outside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Ask the privileged part.
    Send(Request),
    /// Hand a custodian's answer to the opener.
    HandOver(String),
    /// Draw everything again: something else has written to the terminal.
    Redraw,
}

/// An entry of the menu.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Entry {
    /// The fingerprint, large.
    Identity,
    /// What custodians need, and where their answers are pasted.
    Custodians,
    /// Another network.
    Network,
    /// Start again.
    Reboot,
    /// Power off.
    PowerOff,
    /// Seal.
    Seal,
}

impl Entry {
    /// Its letter and its name.
    #[must_use]
    pub fn label(self) -> (char, &'static str) {
        match self {
            Self::Identity => ('f', "fingerprint"),
            Self::Custodians => ('u', "unseal"),
            Self::Network => ('n', "network"),
            Self::Reboot => ('r', "start again"),
            Self::PowerOff => ('o', "power off"),
            Self::Seal => ('s', "seal"),
        }
    }
}

/// A challenge on the screen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Asked {
    /// In groups of characters.
    pub code: String,
    /// What will be done.
    pub lines: Vec<String>,
    /// Until when it can be answered.
    pub until: Duration,
    /// What was typed of the answer.
    pub typed: String,
    /// What is wrong with it, or what was said to it.
    pub said: Option<String>,
    /// Whether the code fills the screen as a picture.
    pub picture: bool,
    /// Whether the answer is being looked at.
    pub waiting: bool,
}

/// What is on the screen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Screen {
    /// How the machine is.
    Status,
    /// Which machine it is, large.
    Identity,
    /// What custodians need, and an answer of theirs.
    Custodians(Pasted),
    /// Whether it is to be sealed now.
    SealNow,
    /// Another network.
    Network(Form),
    /// Waits for a challenge.
    Asking,
    /// A challenge.
    Challenge(Box<Asked>),
    /// Something was done or refused.
    Notice(String),
}

/// Everything that the screen knows.
#[derive(Debug, Clone)]
pub struct Model {
    /// What is shown.
    pub screen: Screen,
    /// How the machine is.
    pub facts: Facts,
    /// Which machine it is and whose; or why that is not known.
    pub who: Result<Who, String>,
    /// The last lines of the log.
    pub log: VecDeque<String>,
    /// Which entry of the menu is marked.
    pub marked: usize,
    /// Until when a new network is tried.
    pub trial: Option<Duration>,
    /// When it is, by a clock that nobody sets.
    pub now: Duration,
    /// Only ASCII, and no pictures.
    pub plain: bool,
}

impl Model {
    /// A screen that knows nothing yet.
    #[must_use]
    pub fn new(plain: bool) -> Self {
        Self {
            screen: Screen::Status,
            facts: Facts::default(),
            who: Err("the part that acts has not answered yet".to_owned()),
            log: VecDeque::new(),
            marked: 0,
            trial: None,
            now: Duration::ZERO,
            plain,
        }
    }

    /// The entries that can be chosen now. Without an owner nobody can allow a change: none is offered.
    #[must_use]
    pub fn menu(&self) -> Vec<Entry> {
        let mut menu = vec![Entry::Identity];
        // Whoever brings an answer has been allowed by whoever made it.
        if self.facts.custody.as_ref().is_some_and(|custody| custody.offer.is_some()) {
            menu.push(Entry::Custodians);
        }
        if matches!(&self.who, Ok(who) if who.owner.is_some()) {
            menu.extend([Entry::Network, Entry::Reboot, Entry::PowerOff]);
            if self.facts.can_seal {
                menu.push(Entry::Seal);
            }
        }
        menu
    }

    /// Whether anybody may seal it: an open box that only its custodians open again.
    #[must_use]
    pub fn can_seal_now(&self) -> bool {
        self.facts.can_seal
            && self.facts.volume == Volume::Open
            && self.facts.custody.as_ref().is_some_and(|custody| custody.offer.is_none())
    }

    /// Why the menu offers no changes.
    #[must_use]
    pub fn why_no_changes(&self) -> Option<String> {
        match &self.who {
            Ok(who) if who.owner.is_some() => None,
            Ok(who) => Some(who.why.clone().unwrap_or_else(|| "no seed names an owner".to_owned())),
            Err(why) => Some(why.clone()),
        }
    }
}

/// What `event` at `now` makes of `model`, and what is to be done.
#[must_use]
pub fn update(mut model: Model, event: Event, now: Duration) -> (Model, Vec<Action>) {
    model.now = now;
    let actions = match event {
        Event::Key(Key::Redraw) => vec![Action::Redraw],
        Event::Key(key) => press(&mut model, key),
        Event::Paste(text) => {
            let most = if matches!(model.screen, Screen::Custodians(_)) { LONGEST_PASTE } else { LONGEST_ANSWER };
            text.chars().take(most).flat_map(|character| put(&mut model, character)).collect()
        }
        Event::HandedOver(said) => {
            if let Screen::Custodians(pasted) = &mut model.screen {
                pasted.waiting = false;
                pasted.said = Some(clean(&said.unwrap_or_else(|why| why), LONGEST_TEXT));
            }
            Vec::new()
        }
        Event::Tick => Vec::new(),
        Event::Facts(facts) => {
            model.facts = facts.cleaned();
            Vec::new()
        }
        Event::Log(line) => {
            while model.log.len() >= LOG {
                model.log.pop_front();
            }
            model.log.push_back(clean(&line, 200));
            Vec::new()
        }
        Event::Who(Ok(who)) => {
            know(&mut model, who);
            Vec::new()
        }
        Event::Who(Err(why)) => {
            model.who = Err(clean(&why, LONGEST_TEXT));
            Vec::new()
        }
        Event::Reply(reply) => {
            answered(&mut model, reply);
            Vec::new()
        }
    };
    expire(&mut model);
    model.marked = model.marked.min(model.menu().len().saturating_sub(1));
    (model, actions)
}

fn expire(model: &mut Model) {
    if model.trial.is_some_and(|until| model.now >= until) {
        model.trial = None;
    }
    if let Screen::Challenge(asked) = &model.screen
        && model.now >= asked.until
    {
        model.screen = Screen::Notice("The challenge has expired. Ask again, and answer the new one in time.".into());
    }
}

fn press(model: &mut Model, key: Key) -> Vec<Action> {
    if key == Key::SealNow {
        return press_seal_now(model);
    }
    match &mut model.screen {
        Screen::Status => return press_status(model, key),
        Screen::Notice(_) if matches!(key, Key::Char('k' | 'K')) && model.trial.is_some() => {
            return vec![Action::Send(Request::Keep)];
        }
        Screen::Identity | Screen::Notice(_) | Screen::Asking | Screen::SealNow => {
            if matches!(key, Key::Escape | Key::Enter) {
                model.screen = Screen::Status;
            }
        }
        Screen::Network(form) => match key {
            Key::Escape => model.screen = Screen::Status,
            Key::Tab | Key::Down => form.step(true),
            Key::BackTab | Key::Up => form.step(false),
            Key::Left => form.turn(&model.facts.links, false),
            Key::Right => form.turn(&model.facts.links, true),
            Key::Backspace => form.rub(),
            Key::Empty => (0..LONGEST_ANSWER).for_each(|_| form.rub()),
            Key::Char(character) => form.put(character),
            Key::Redraw | Key::SealNow => {}
            Key::Enter => match form.deed() {
                Ok(deed) => return ask(model, deed),
                Err(fault) => form.fault = Some(clean(&fault, LONGEST_TEXT)),
            },
        },
        Screen::Custodians(pasted) => match key {
            Key::Escape => model.screen = Screen::Status,
            Key::Tab | Key::BackTab => pasted.picture = !pasted.picture,
            Key::Empty => pasted.empty(),
            // Terminals without brackets around what is pasted send it as keys.
            Key::Char(character) => return put(model, character),
            Key::Enter => return put(model, '\n'),
            _ => {}
        },
        Screen::Challenge(asked) => match key {
            Key::Escape => model.screen = Screen::Status,
            Key::Tab | Key::BackTab => asked.picture = !asked.picture,
            Key::Backspace => {
                asked.typed.pop();
                asked.said = None;
            }
            Key::Empty => {
                asked.typed.clear();
                asked.said = None;
            }
            Key::Char(character) => return put(model, character),
            Key::Enter if !asked.waiting => match code::decode(&asked.typed) {
                // A slip is told here: it never reaches the part that counts wrong answers.
                Err(error) => asked.said = Some(clean(&error.to_string(), LONGEST_TEXT)),
                Ok(octets) if octets.len() != 64 => {
                    asked.said = Some("an answer has 26 groups; type all of them".to_owned());
                }
                Ok(_) => {
                    asked.waiting = true;
                    asked.said = None;
                    let (challenge, answer) = (asked.code.clone(), asked.typed.clone());
                    return vec![Action::Send(Request::Answer { challenge, answer })];
                }
            },
            _ => {}
        },
    }
    Vec::new()
}

/// From wherever the screen is: who needs this has no time to look for it. The second time does it.
fn press_seal_now(model: &mut Model) -> Vec<Action> {
    if !model.can_seal_now() {
        return Vec::new();
    }
    if model.screen == Screen::SealNow {
        model.screen = Screen::Asking;
        return vec![Action::Send(Request::SealNow)];
    }
    model.screen = Screen::SealNow;
    Vec::new()
}

fn press_status(model: &mut Model, key: Key) -> Vec<Action> {
    let menu = model.menu();
    let count = menu.len();
    match key {
        Key::Right | Key::Down | Key::Tab => model.marked = (model.marked + 1) % count.max(1),
        Key::Left | Key::Up | Key::BackTab => model.marked = (model.marked + count.max(1) - 1) % count.max(1),
        Key::Enter => {
            if let Some(entry) = menu.get(model.marked) {
                return choose(model, *entry);
            }
        }
        Key::Char('k' | 'K') if model.trial.is_some() => return vec![Action::Send(Request::Keep)],
        Key::Char(character) => {
            let letter = character.to_ascii_lowercase();
            if let Some(at) = menu.iter().position(|entry| entry.label().0 == letter) {
                model.marked = at;
                return choose(model, menu[at]);
            }
        }
        _ => {}
    }
    Vec::new()
}

fn choose(model: &mut Model, entry: Entry) -> Vec<Action> {
    match entry {
        Entry::Identity => model.screen = Screen::Identity,
        Entry::Custodians => model.screen = Screen::Custodians(Pasted::default()),
        Entry::Network => model.screen = Screen::Network(Form::of(&model.facts.links)),
        Entry::Reboot => return ask(model, Deed::Reboot),
        Entry::PowerOff => return ask(model, Deed::PowerOff),
        Entry::Seal => return ask(model, Deed::Seal),
    }
    Vec::new()
}

fn ask(model: &mut Model, deed: Deed) -> Vec<Action> {
    model.screen = Screen::Asking;
    vec![Action::Send(Request::Ask(deed))]
}

fn put(model: &mut Model, character: char) -> Vec<Action> {
    match &mut model.screen {
        Screen::Custodians(pasted) => return pasted.put(character).map(Action::HandOver).into_iter().collect(),
        Screen::Network(form) => form.put(character),
        Screen::Challenge(asked) if !asked.waiting && asked.typed.len() < LONGEST_ANSWER => {
            // Pasted lines end; that is no character of an answer.
            if character.is_ascii_graphic() || character == ' ' {
                asked.typed.push(character);
            } else if character.is_whitespace() {
                asked.typed.push(' ');
            }
            asked.said =
                code::first_fault(&asked.typed).map(|error: CodeError| clean(&error.to_string(), LONGEST_TEXT));
        }
        _ => {}
    }
    Vec::new()
}

fn know(model: &mut Model, mut who: Who) {
    who.machine = clean(&who.machine, 80);
    who.owner = who.owner.map(|owner| clean(&owner, 128));
    who.why = who.why.map(|why| clean(&why, LONGEST_TEXT));
    model.trial = who.trial.map(|seconds| model.now.saturating_add(Duration::from_secs(seconds)));
    model.who = Ok(who);
}

fn answered(model: &mut Model, reply: Result<Reply, String>) {
    match reply {
        Ok(Reply::Who(who)) => know(model, who),
        Ok(Reply::Challenge { code, lines, valid }) => {
            // Whoever has left the screen in the meantime does not want it any more.
            if model.screen == Screen::Asking {
                model.screen = Screen::Challenge(Box::new(Asked {
                    code: clean(&code, code::LONGEST * 2),
                    lines: lines.iter().take(8).map(|line| clean(line, LONGEST_TEXT)).collect(),
                    until: model.now.saturating_add(Duration::from_secs(valid)),
                    typed: String::new(),
                    said: None,
                    picture: false,
                    waiting: false,
                }));
            }
        }
        Ok(Reply::Done(said)) => model.screen = Screen::Notice(clean(&said, LONGEST_TEXT)),
        Ok(Reply::Refused(why)) | Err(why) => refused(model, &why),
    }
}

fn refused(model: &mut Model, why: &str) {
    let why = clean(why, LONGEST_TEXT);
    match &mut model.screen {
        Screen::Challenge(asked) => {
            asked.waiting = false;
            asked.said = Some(why);
        }
        screen => *screen = Screen::Notice(why),
    }
}

#[cfg(test)]
#[path = "model_tests.rs"]
pub(crate) mod tests;
