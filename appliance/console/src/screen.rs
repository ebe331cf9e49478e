//! The edge of the screen: a terminal, keys, and what is looked at in the background; all decisions are in
//! [`crate::model`].

use std::io::{Stdout, stdout};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use crossterm::event::{
    DisableBracketedPaste, EnableBracketedPaste, Event as TerminalEvent, KeyCode, KeyEvent, KeyEventKind, KeyModifiers,
};
use crossterm::terminal::{
    Clear, ClearType, EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode,
};
use ratatui::backend::CrosstermBackend;
use ratatui::layout::Rect;
use ratatui::{Terminal, TerminalOptions, Viewport};
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc::{Receiver, Sender, channel};
use tokio::sync::oneshot;

use crate::custody;
use crate::draw::{draw, to_text};
use crate::model::{Action, Event, Key, Model, update};
use crate::watch::{self, Places};
use crate::wire::{Reply, Request, Who, ask};

/// What a terminal has that does not say how large it is.
const USUAL: Rect = Rect { x: 0, y: 0, width: 80, height: 24 };
/// Larger ones would cost more memory than they are worth.
const LARGEST: (u16, u16) = (400, 200);
/// The kernel writes onto the same terminal.
const REDRAW: Duration = Duration::from_secs(60);
/// So does systemd, as long as the machine starts.
const REDRAW_AT_FIRST: Duration = Duration::from_secs(10);
const AT_FIRST: Duration = Duration::from_secs(180);
const LOOK: Duration = Duration::from_secs(5);
const ASK: Duration = Duration::from_secs(2);

/// What the screen needs to know at its start.
#[derive(Debug, Clone)]
pub struct Options {
    /// The terminal, when it is not standard input.
    pub terminal: Option<PathBuf>,
    /// The socket of the privileged part.
    pub socket: PathBuf,
    /// Only ASCII, and no pictures.
    pub plain: bool,
    /// Where to look.
    pub places: Places,
}

/// Shows the screen until its terminal goes away.
///
/// # Errors
/// The terminal.
pub async fn run(options: Options) -> Result<(), String> {
    if let Some(path) = &options.terminal {
        take_terminal(path)?;
    }
    enable_raw_mode()
        .map_err(|error| format!("standard input is not a terminal: {error}; name one with --terminal"))?;
    let ended = show(&options).await;
    // The next program on this terminal finds it as it was; if that fails there is nobody to tell.
    let _ = crossterm::execute!(stdout(), DisableBracketedPaste, LeaveAlternateScreen);
    let _ = disable_raw_mode();
    ended
}

/// Makes the terminal at `path` standard input and output.
fn take_terminal(path: &std::path::Path) -> Result<(), String> {
    let failed = |error: &dyn std::fmt::Display| format!("cannot open the terminal {}: {error}", path.display());
    let file = std::fs::OpenOptions::new().read(true).write(true).open(path).map_err(|error| failed(&error))?;
    rustix::stdio::dup2_stdin(&file).map_err(|error| failed(&error))?;
    rustix::stdio::dup2_stdout(&file).map_err(|error| failed(&error))
}

async fn show(options: &Options) -> Result<(), String> {
    let failed = |error: std::io::Error| format!("cannot write to the terminal: {error}");
    crossterm::execute!(stdout(), EnterAlternateScreen, EnableBracketedPaste).map_err(failed)?;
    let size = terminal_size();
    let mut terminal = empty(size).map_err(failed)?;
    let mut told_to_end =
        signal(SignalKind::terminate()).map_err(|error| format!("cannot listen to signals: {error}"))?;
    let (events, coming) = channel(64);
    watch_all(options, &events);
    // A program that dies beside its parent may leave systemd waiting for a unit in which nothing runs any more: ours ends first.
    let (stay, leave) = oneshot::channel();
    let follower = tokio::spawn(watch::follow_journal(events.clone(), leave));
    let ended = tokio::select! {
        ended = draw_all(options, &mut terminal, size, events, coming) => ended,
        _ = told_to_end.recv() => Ok(()),
    };
    drop(stay);
    let _ = follower.await;
    ended
}

/// Draws what comes, until the terminal is gone.
async fn draw_all(
    options: &Options,
    terminal: &mut Terminal<CrosstermBackend<Stdout>>,
    mut size: Rect,
    events: Sender<Event>,
    mut coming: Receiver<Event>,
) -> Result<(), String> {
    let failed = |error: std::io::Error| format!("cannot write to the terminal: {error}");
    let start = Instant::now();
    let mut model = Model::new(options.plain);
    let mut drawn = Instant::now();
    loop {
        let now = terminal_size();
        let patience = if start.elapsed() < AT_FIRST { REDRAW_AT_FIRST } else { REDRAW };
        if now != size {
            size = now;
            *terminal = empty(size).map_err(failed)?;
        } else if drawn.elapsed() >= patience {
            drawn = Instant::now();
            *terminal = empty(size).map_err(failed)?;
        }
        terminal.draw(|frame| draw(&model, frame)).map_err(failed)?;
        for event in next_events(&mut coming).await? {
            let (next, actions) = update(model, event, start.elapsed());
            model = next;
            for action in actions {
                match action {
                    Action::Redraw => *terminal = empty(size).map_err(failed)?,
                    Action::Send(request) => send(options.socket.clone(), request, events.clone()),
                    Action::HandOver(answer) => hand_over(options.places.opener.clone(), answer, events.clone()),
                }
            }
        }
    }
}

/// The terminal, emptied, with everything to be drawn. `Terminal::clear` and `resize` would ask it where its cursor is,
/// and a serial line with nobody at its other end does not answer.
fn empty(size: Rect) -> std::io::Result<Terminal<CrosstermBackend<Stdout>>> {
    crossterm::execute!(stdout(), Clear(ClearType::All))?;
    let viewport = TerminalOptions { viewport: Viewport::Fixed(size) };
    Terminal::with_options(CrosstermBackend::new(stdout()), viewport)
}

/// All events that are there; at least one, and a tick when a second has passed without any.
async fn next_events(coming: &mut Receiver<Event>) -> Result<Vec<Event>, String> {
    let mut events = Vec::new();
    match tokio::time::timeout(Duration::from_secs(1), coming.recv_many(&mut events, 64)).await {
        Ok(0) => Err("the terminal is gone".to_owned()),
        Ok(_) => Ok(events),
        Err(_) => Ok(vec![Event::Tick]),
    }
}

fn send(socket: PathBuf, request: Request, events: Sender<Event>) {
    tokio::spawn(async move {
        let reply = ask(&socket, &request).await;
        let who = who(&socket).await;
        // The screen has ended: nobody waits for it.
        let _ = events.send(Event::Reply(reply)).await;
        let _ = events.send(Event::Who(who)).await;
    });
}

fn hand_over(opener: PathBuf, answer: String, events: Sender<Event>) {
    tokio::spawn(async move {
        let said = custody::hand_over(&opener, answer).await;
        // The screen has ended: nobody waits for it.
        let _ = events.send(Event::HandedOver(said)).await;
    });
}

async fn who(socket: &std::path::Path) -> Result<Who, String> {
    match ask(socket, &Request::Who).await? {
        Reply::Who(who) => Ok(who),
        Reply::Refused(why) => Err(why),
        other => Err(format!("the part that acts answers something else: {other:?}")),
    }
}

fn watch_all(options: &Options, events: &Sender<Event>) {
    let (sender, places) = (events.clone(), options.places.clone());
    tokio::spawn(async move {
        while sender.send(Event::Facts(Box::new(watch::look(&places).await))).await.is_ok() {
            tokio::time::sleep(LOOK).await;
        }
    });
    let (sender, socket) = (events.clone(), options.socket.clone());
    tokio::spawn(async move {
        while sender.send(Event::Who(who(&socket).await)).await.is_ok() {
            tokio::time::sleep(ASK).await;
        }
    });
    let sender = events.clone();
    std::thread::spawn(move || {
        // Reading blocks; a terminal that hangs up ends it, and with it the program.
        while let Ok(event) = crossterm::event::read() {
            if let Some(event) = meant(event)
                && sender.blocking_send(event).is_err()
            {
                return;
            }
        }
        std::process::exit(1);
    });
}

fn meant(event: TerminalEvent) -> Option<Event> {
    match event {
        TerminalEvent::Key(key) if key.kind != KeyEventKind::Release => pressed(key).map(Event::Key),
        TerminalEvent::Paste(text) => Some(Event::Paste(text)),
        TerminalEvent::Resize(..) => Some(Event::Tick),
        _ => None,
    }
}

fn pressed(key: KeyEvent) -> Option<Key> {
    if key.modifiers.contains(KeyModifiers::CONTROL) {
        return match key.code {
            KeyCode::Char('l') => Some(Key::Redraw),
            KeyCode::Char('u') => Some(Key::Empty),
            KeyCode::Char('x') => Some(Key::SealNow),
            KeyCode::Char('h') => Some(Key::Backspace),
            KeyCode::Char('j' | 'm') => Some(Key::Enter),
            _ => None,
        };
    }
    Some(match key.code {
        KeyCode::Char(character) => Key::Char(character),
        KeyCode::Enter => Key::Enter,
        KeyCode::Esc => Key::Escape,
        KeyCode::Tab => Key::Tab,
        KeyCode::BackTab => Key::BackTab,
        KeyCode::Up => Key::Up,
        KeyCode::Down => Key::Down,
        KeyCode::Left => Key::Left,
        KeyCode::Right => Key::Right,
        KeyCode::Backspace | KeyCode::Delete => Key::Backspace,
        _ => return None,
    })
}

/// A serial line says nothing about its size.
fn terminal_size() -> Rect {
    let size = rustix::stdio::stdout();
    match rustix::termios::tcgetwinsize(size) {
        Ok(size) if size.ws_col > 0 && size.ws_row > 0 => {
            Rect { width: size.ws_col.min(LARGEST.0), height: size.ws_row.min(LARGEST.1), ..USUAL }
        }
        _ => USUAL,
    }
}

/// The status screen, once, as text.
pub async fn show_once(options: &Options, columns: u16, rows: u16) -> String {
    let mut events =
        vec![Event::Facts(Box::new(watch::look(&options.places).await)), Event::Who(who(&options.socket).await)];
    events.extend(watch::last_lines().await.into_iter().map(Event::Log));
    let model =
        events.into_iter().fold(Model::new(options.plain), |model, event| update(model, event, Duration::ZERO).0);
    to_text(&model, columns.min(LARGEST.0), rows.min(LARGEST.1))
}
