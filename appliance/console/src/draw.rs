//! Draws the model: at any size, in characters that every terminal has, with no colour that means something by itself.

use std::time::Duration;

use ratatui::Frame;
use ratatui::layout::{Position, Rect};
use ratatui::style::{Modifier, Style};
use ratatui::text::{Line, Span};

use crate::code;
use crate::custody::{Custody, Pasted};
use crate::facts::{Facts, Volume};
use crate::form::{FIELDS, Form};
use crate::model::{Asked, Entry, Model, Screen};
use crate::picture::Picture;

/// Columns of the names before the facts.
const LABEL: usize = 10;
/// Columns that the text beside a picture needs.
const BESIDE: u16 = 35;

/// Draws `model` over the whole of `frame`.
pub fn draw(model: &Model, frame: &mut Frame<'_>) {
    let area = frame.area();
    if area.width == 0 || area.height == 0 {
        return;
    }
    let [head, body, foot] = [
        Rect { height: 1, ..area },
        Rect { y: area.y + 1, height: area.height.saturating_sub(2), ..area },
        Rect { y: area.bottom() - 1, height: u16::from(area.height > 1), ..area },
    ];
    let page = Page { model, width: usize::from(area.width) };
    page.lines(frame, head, &[page.title()]);
    match &model.screen {
        Screen::Status => page.status(frame, body),
        Screen::Identity => page.identity(frame, body),
        Screen::Custodians(pasted) => page.custodians(frame, body, pasted),
        Screen::Network(form) => page.network(frame, body, form),
        Screen::SealNow => page.lines(
            frame,
            body,
            &wrapped(
                "Seal this box now? Mail stops, and the data volume is closed: as after a power cut, but in order. Its custodians have to open \
                 it again.",
                page.width,
            ),
        ),
        Screen::Asking => page.lines(frame, body, &[Line::from(""), Line::from("Asked; waiting for the answer...")]),
        Screen::Challenge(asked) => page.challenge(frame, body, asked),
        Screen::Notice(text) => {
            let mut lines = vec![Line::from("")];
            lines.extend(wrap(text, page.width).into_iter().map(Line::from));
            page.lines(frame, body, &lines);
        }
    }
    page.lines(frame, foot, &[page.foot()]);
}

struct Page<'a> {
    model: &'a Model,
    width: usize,
}

impl Page<'_> {
    fn title(&self) -> Line<'static> {
        let facts = &self.model.facts;
        let volume = match facts.volume {
            Volume::Open => "OPEN",
            Volume::Sealed => "SEALED",
            Volume::Unmounted => "NOT SEALED",
            Volume::Unknown => "",
        };
        let left = format!(" Postkeep {}  {}", facts.version, facts.hostname);
        let right = format!("{volume}  {} ", facts.clock);
        let gap = self.width.saturating_sub(left.chars().count() + right.chars().count()).max(1);
        let text: String = format!("{left}{}{right}", " ".repeat(gap)).chars().take(self.width).collect();
        Line::styled(text, Style::new().add_modifier(Modifier::REVERSED))
    }

    fn foot(&self) -> Line<'static> {
        let model = self.model;
        match &model.screen {
            Screen::Status => {
                let mut spans = Vec::new();
                let gap = if model.trial.is_some() { " " } else { "  " };
                if model.trial.is_some() {
                    spans.push(Span::styled("[k] keep it", Style::new().add_modifier(Modifier::BOLD)));
                    spans.push(Span::raw(gap));
                }
                for (at, entry) in model.menu().into_iter().enumerate() {
                    spans.push(menu_entry(entry, at == model.marked));
                    spans.push(Span::raw(gap));
                }
                Line::from(spans)
            }
            Screen::Notice(_) if model.trial.is_some() => Line::from("[k] keep the new network  [Esc] back"),
            Screen::Identity | Screen::Notice(_) | Screen::Asking => Line::from("[Esc] back"),
            Screen::SealNow => Line::from("[Ctrl-X] once more: seal it  [Esc] back"),
            Screen::Custodians(_) => Line::from("[Tab] large code  [Ctrl-U] empty  [Esc] back"),
            Screen::Network(_) => {
                Line::from("[Tab] next  [<-][->] other card, yes/no  [Enter] ask the owner  [Esc] back")
            }
            Screen::Challenge(asked) => {
                let left = asked.until.saturating_sub(model.now).as_secs();
                Line::from(format!("[Enter] send  [Ctrl-U] empty  [Tab] large code  [Esc] leave   {left} s left"))
            }
        }
    }

    fn status(&self, frame: &mut Frame<'_>, area: Rect) {
        let model = self.model;
        let mut lines = Vec::new();
        if let Some(until) = model.trial {
            let left = until.saturating_sub(model.now).max(Duration::from_secs(1)).as_secs();
            let text =
                format!("A new network is being tried. Press k to keep it; otherwise the old one is back in {left} s.");
            let style = Style::new().add_modifier(Modifier::BOLD);
            lines.extend(wrap(&text, self.width).into_iter().map(|line| Line::styled(line, style)));
        }
        for (label, text) in told(model) {
            for (at, part) in wrap(&text, self.width.saturating_sub(LABEL)).into_iter().enumerate() {
                let label = if at == 0 { label } else { "" };
                lines.push(Line::from(format!("{label:LABEL$}{part}")));
            }
        }
        // The log gets what is left, and a third in any case.
        let most = usize::from(area.height) * 2 / 3;
        lines.truncate(most);
        if !model.log.is_empty() {
            let rule = format!("-- Log {}", "-".repeat(self.width.saturating_sub(7)));
            lines.push(Line::styled(rule, Style::new().add_modifier(Modifier::DIM)));
            let room = usize::from(area.height).saturating_sub(lines.len());
            let skipped = model.log.len().saturating_sub(room);
            lines.extend(model.log.iter().skip(skipped).map(|line| Line::from(line.clone())));
        }
        self.lines(frame, area, &lines);
    }

    fn identity(&self, frame: &mut Frame<'_>, area: Rect) {
        let machine = match &self.model.who {
            Ok(who) => who.machine.clone(),
            Err(why) => return self.lines(frame, area, &wrapped(why, self.width)),
        };
        let mut lines = vec![Line::from("")];
        lines.extend(wrapped("The fingerprint of this machine:", self.width));
        lines.extend(wrapped(&machine, self.width).into_iter().map(|line| line.style(Modifier::BOLD)));
        lines.push(Line::from(""));
        lines.extend(wrapped(
            "It is in every challenge. Compare it with what was noted at the first start: another fingerprint is \
             another machine, or another mainboard.",
            self.width,
        ));
        let used = u16::try_from(lines.len()).unwrap_or(u16::MAX).min(area.height);
        self.lines(frame, area, &lines);
        let below = Rect { y: area.y + used, height: area.height - used, ..area };
        self.picture(frame, below, &machine.replace(' ', ""));
    }

    fn custodians(&self, frame: &mut Frame<'_>, area: Rect, pasted: &Pasted) {
        let Some(Custody { told, offer: Some(offer), door }) = &self.model.facts.custody else {
            return self.lines(frame, area, &wrapped("This box waits for no custodians.", self.width));
        };
        if pasted.picture {
            if !self.picture(frame, area, offer) {
                let text =
                    "This terminal is too small for the code, or cannot show it; copy the text instead. [Tab] back";
                self.lines(frame, area, &wrapped(text, self.width));
            }
            return;
        }
        let mut lines = wrapped(&format!("This box {told}."), self.width);
        lines.push(Line::from(""));
        match door {
            Some(door) => {
                lines.extend(wrapped(
                    "From elsewhere, where its certificate has this sum: postkeep-keys unseal --box ADDRESS",
                    self.width,
                ));
                lines.extend(wrapped(door, self.width).into_iter().map(|line| line.style(Modifier::BOLD)));
            }
            None => {
                lines.extend(wrapped("Its door is not open: custodians cannot reach it from elsewhere.", self.width))
            }
        }
        lines.push(Line::from(""));
        lines.extend(wrapped(
            "Without a network: postkeep-keys unseal --token FILE --offer, with this text:",
            self.width,
        ));
        lines.extend(wrapped(offer, self.width).into_iter().map(|line| line.style(Modifier::BOLD)));
        lines.push(Line::from(""));
        lines.extend(wrapped("What that prints is pasted here, the lines with BEGIN and END too.", self.width));
        lines.extend(wrapped(&pasted.told(), self.width).into_iter().map(|line| line.style(Modifier::BOLD)));
        self.lines(frame, area, &lines);
    }

    fn network(&self, frame: &mut Frame<'_>, area: Rect, form: &Form) {
        let mut lines = wrapped(
            "Another network for one card, until the next start: then what the seed says counts again. The owner has to \
             allow it. It is tried for 60 s and goes back unless it is kept here.",
            self.width,
        );
        lines.push(Line::from(""));
        let mut cursor = None;
        for (at, name) in FIELDS.iter().enumerate() {
            let field = form.fields.get(at).map_or("", String::as_str);
            let parts = wrap(field, self.width.saturating_sub(LABEL + 4));
            for (part, text) in parts.iter().enumerate() {
                let mark = if at == form.at && part == 0 { ">" } else { " " };
                let label = if part == 0 { *name } else { "" };
                let line = format!("{mark} {label:LABEL$} {text}");
                if at == form.at {
                    cursor = Some((line.chars().count(), lines.len()));
                    lines.push(Line::styled(line, Modifier::BOLD));
                } else {
                    lines.push(Line::from(line));
                }
            }
        }
        lines.push(Line::from(""));
        match &form.fault {
            Some(fault) => lines.extend(wrapped(fault, self.width)),
            None => lines.extend(wrapped(
                "Addresses are written with the length of their network (192.0.2.5/24), more of them with spaces between; \
                 DNS that is empty stays as it is.",
                self.width,
            )),
        }
        self.lines(frame, area, &lines);
        self.cursor(frame, area, cursor);
    }

    fn challenge(&self, frame: &mut Frame<'_>, area: Rect, asked: &Asked) {
        let said = asked.code.replace(' ', "");
        if asked.picture {
            if !self.picture(frame, area, &said) {
                let text = "This terminal is too small for the code, or cannot show it; type the challenge instead. [Tab] back";
                self.lines(frame, area, &wrapped(text, self.width));
            }
            return;
        }
        let columns = Picture::of(&said).map_or(0, |picture| picture.size().0);
        let (mut text, mut width) = (area, self.width);
        if columns > 0 && area.width >= columns + 1 + BESIDE {
            let right = Rect { x: area.right() - columns, width: columns, ..area };
            if self.picture(frame, right, &said) {
                text.width = area.width - columns - 1;
                width = usize::from(text.width);
            }
        }
        let mut lines = wrapped("Only the owner can allow this:", width);
        for line in &asked.lines {
            lines.extend(wrapped(line, width).into_iter().map(|line| line.style(Modifier::BOLD)));
        }
        lines.push(Line::from(""));
        lines.extend(wrapped("Challenge:", width));
        lines.extend(wrapped(&asked.code, width));
        lines.push(Line::from(""));
        lines.extend(wrapped("Where the owner's key is: postkeep console answer --key FILE", width));
        lines.extend(wrapped("Answer:", width));
        let typed = wrap(&code::grouped(&asked.typed), width);
        let cursor = (typed.last().map_or(0, |last| last.chars().count()), lines.len() + typed.len() - 1);
        lines.extend(typed.into_iter().map(|line| Line::styled(line, Modifier::BOLD)));
        if asked.waiting {
            lines.extend(wrapped("The answer is being checked...", width));
        } else if let Some(said) = &asked.said {
            lines.extend(wrapped(said, width));
        }
        // On a small screen the end matters: there is what is being typed.
        let hidden = lines.len().saturating_sub(usize::from(text.height));
        self.lines(frame, text, &lines[hidden..]);
        self.cursor(frame, text, cursor.1.checked_sub(hidden).map(|row| (cursor.0, row)));
    }

    fn picture(&self, frame: &mut Frame<'_>, area: Rect, text: &str) -> bool {
        !self.model.plain && Picture::of(text).is_some_and(|picture| picture.draw(area, frame.buffer_mut()))
    }

    fn cursor(&self, frame: &mut Frame<'_>, area: Rect, at: Option<(usize, usize)>) {
        let Some((column, row)) = at else { return };
        let (Ok(column), Ok(row)) = (u16::try_from(column), u16::try_from(row)) else { return };
        if row < area.height && area.width > 0 {
            frame.set_cursor_position(Position::new(area.x + column.min(area.width - 1), area.y + row));
        }
    }

    fn lines(&self, frame: &mut Frame<'_>, area: Rect, lines: &[Line<'_>]) {
        let buffer = frame.buffer_mut();
        let area = area.intersection(buffer.area);
        for (row, line) in (area.y..area.bottom()).zip(lines) {
            if self.model.plain {
                let ascii = |span: &Span<'_>| {
                    let plain = |character: char| if character.is_ascii() { character } else { '?' };
                    Span::styled(span.content.chars().map(plain).collect::<String>(), span.style)
                };
                let plain = Line::from(line.spans.iter().map(ascii).collect::<Vec<_>>()).style(line.style);
                buffer.set_line(area.x, row, &plain, area.width);
            } else {
                buffer.set_line(area.x, row, line, area.width);
            }
        }
    }
}

fn menu_entry(entry: Entry, marked: bool) -> Span<'static> {
    let (letter, name) = entry.label();
    let style = if marked { Style::new().add_modifier(Modifier::REVERSED) } else { Style::new() };
    Span::styled(format!("[{letter}] {name}"), style)
}

/// The facts with their names, in the order in which they are looked for.
fn told(model: &Model) -> Vec<(&'static str, String)> {
    let facts: &Facts = &model.facts;
    let mut told = Vec::new();
    if let Ok(who) = &model.who {
        told.push(("Machine", who.machine.clone()));
    }
    let volume = match facts.volume {
        Volume::Open => "open: the data volume is mounted",
        Volume::Sealed => "sealed: the data volume is closed",
        Volume::Unmounted => "not sealed: the data volume is not mounted, but its key is in the memory of this machine",
        Volume::Unknown => "not known",
    };
    told.push(("State", volume.to_owned()));
    if let Some(custody) = &facts.custody {
        told.push(("Seal", custody.told.clone()));
        told.extend(custody.door.iter().map(|door| ("Door", door.clone())));
    }
    let posture = match &facts.posture {
        Some(posture) => posture.told(),
        None => "not measured".to_owned(),
    };
    told.push(("Posture", posture));
    if let Some(worst) = &facts.worst {
        told.push(("", format!("It was {} on {}, and that stays: {}", worst.grade, worst.since, worst.reason)));
    }
    told.extend(facts.disks.iter().map(|disks| ("Disks", disks.clone())));
    for (at, link) in facts.links.iter().enumerate() {
        let text = format!("{} {} {}", link.name, link.state, link.addresses.join(" "));
        told.push((if at == 0 { "Network" } else { "" }, text.trim_end().to_owned()));
    }
    // As long as the clock is right there is nothing to say; the time itself stands at the top.
    if facts.synchronized == Some(false) {
        told.push(("Time", "the clock has not been set by a time server".to_owned()));
    }
    told.push(("Mail", facts.mail.clone()));
    if let Some(sum) = &facts.api {
        told.push(("Box", sum.clone()));
    }
    let failed = match &facts.failed {
        None => "not known".to_owned(),
        Some(failed) if failed.is_empty() => "nothing".to_owned(),
        Some(failed) => failed.join(" "),
    };
    told.push(("Failed", failed));
    match (&model.who, model.why_no_changes()) {
        (Ok(who), None) => told.push(("Owner", who.owner.clone().unwrap_or_default())),
        (_, Some(why)) => told.push(("Owner", format!("nothing can be changed here: {why}"))),
        _ => {}
    }
    told.extend(facts.problems.iter().map(|problem| ("Not read", problem.clone())));
    told
}

fn wrapped(text: &str, width: usize) -> Vec<Line<'static>> {
    wrap(text, width).into_iter().map(Line::from).collect()
}

/// `text` in lines of at most `width` characters, broken between words where that can be done; at least one line.
fn wrap(text: &str, width: usize) -> Vec<String> {
    let width = width.max(1);
    let mut lines = vec![String::new()];
    let mut column = 0;
    for word in text.split(' ').filter(|word| !word.is_empty()) {
        let length = word.chars().count();
        if column > 0 && column + 1 + length > width {
            lines.push(String::new());
            column = 0;
        }
        if column > 0 {
            if let Some(line) = lines.last_mut() {
                line.push(' ');
            }
            column += 1;
        }
        for character in word.chars() {
            if column == width {
                lines.push(String::new());
                column = 0;
            }
            if let Some(line) = lines.last_mut() {
                line.push(character);
            }
            column += 1;
        }
    }
    lines
}

/// The screen of `width` by `height` as lines of text.
#[must_use]
pub fn to_text(model: &Model, width: u16, height: u16) -> String {
    let backend = ratatui::backend::TestBackend::new(width, height);
    let Ok(mut terminal) = ratatui::Terminal::new(backend);
    let Ok(_) = terminal.draw(|frame| draw(model, frame));
    let buffer = terminal.backend().buffer();
    let mut text = String::new();
    for row in 0..height {
        let line: String = (0..width).filter_map(|column| Some(buffer.cell((column, row))?.symbol())).collect();
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
#[path = "draw_tests.rs"]
mod tests;
