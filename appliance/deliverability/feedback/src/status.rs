//! `message/delivery-status` (RFC 3464): a block about the message, then one for each recipient.

use postkeep_deliverability::reply::{RuleBook, Stage};

use crate::judgement::{Evidence, judge, stage_of};
use crate::opened::{Opened, PartKind};
use crate::prose;
use crate::{Finding, Kind, MOST_FINDINGS};

/// The recipients of the first report in the message.
pub(crate) fn read(opened: &Opened, book: &RuleBook) -> Vec<Finding> {
    let words = prose::words(opened);
    let stage = stage_of(&words);
    let mut findings: Vec<Finding> = Vec::new();
    for text in opened.of(PartKind::DeliveryStatus) {
        let blocks = blocks(text);
        let is_one = blocks.iter().filter(|block| block.iter().any(|(name, _)| name == "final-recipient")).count() <= 1;
        for block in blocks {
            if findings.len() >= MOST_FINDINGS {
                break;
            }
            findings.extend(recipient(opened, &block, (&words, stage), is_one, book));
        }
        if !findings.is_empty() {
            break;
        }
    }
    findings
}

/// One block: its fields, names in lower case, values unfolded.
type Block = Vec<(String, String)>;

fn blocks(text: &str) -> Vec<Block> {
    let mut blocks = vec![Block::new()];
    for line in text.lines() {
        let Some(block) = blocks.last_mut() else { break };
        if line.trim().is_empty() {
            if !block.is_empty() {
                blocks.push(Block::new());
            }
        } else if line.starts_with([' ', '\t'])
            && let Some((_, value)) = block.last_mut()
        {
            value.push(' ');
            value.push_str(line.trim());
        } else if let Some((name, value)) = line.split_once(':') {
            let name = name.trim().to_ascii_lowercase();
            // Some put all recipients into one block.
            if name == "final-recipient" && block.iter().any(|(own, _)| *own == name) {
                blocks.push(vec![(name, value.trim().to_owned())]);
            } else {
                block.push((name, value.trim().to_owned()));
            }
        }
    }
    blocks
}

fn recipient(
    opened: &Opened,
    block: &Block,
    (words, stage): (&str, Option<Stage>),
    is_one: bool,
    book: &RuleBook,
) -> Option<Finding> {
    let field = |name: &str| block.iter().find(|(own, _)| own == name).map(|(_, value)| value.as_str());
    // Whom we wrote to counts, not whom it was forwarded to.
    let named = ["original-recipient", "final-recipient", "x-actual-recipient"];
    let address = named
        .iter()
        .filter_map(|name| field(name))
        .find_map(|value| prose::first_address(value).or_else(|| bare(value)));
    let action = field("action").map(|action| action.to_ascii_lowercase()).unwrap_or_default();
    if address.is_none() && action.is_empty() {
        return None;
    }
    // A report about some recipients need not name them where the message itself does.
    let address = address.or_else(|| opened.header("x-failed-recipients").and_then(prose::first_address));
    let diagnostic = field("diagnostic-code").map(without_type).unwrap_or_default();
    let kind = match action.split([' ', '(', ';']).next().unwrap_or_default() {
        "delayed" => Kind::Delay,
        "delivered" | "relayed" | "expanded" => Kind::None,
        "failed" => Kind::Bounce,
        // Nothing, or nothing that is known: the status tells.
        _ => match field("status").and_then(|status| status.chars().next()) {
            Some('2') => Kind::None,
            Some('4') => Kind::Delay,
            _ => Kind::Bounce,
        },
    };
    let (said, is_own) = match (diagnostic.is_empty(), is_one && kind == Kind::Bounce) {
        (false, _) => (diagnostic.to_owned(), true),
        (true, true) => (prose::near(words, None).0, true),
        (true, false) => prose::near(words, address.as_deref()),
    };
    let evidence = Evidence {
        kind,
        said: &said,
        is_quoted: !diagnostic.is_empty(),
        stage,
        is_own,
        is_machine: true,
        status_field: field("status"),
        is_report: true,
    };
    Some(judge(address, &evidence, book))
}

/// What names a recipient without being an address as we know them: `rfc822; user`, `X400; …`.
fn bare(value: &str) -> Option<String> {
    let value = value.split_once(';').map_or(value, |(_, rest)| rest).trim();
    let bare = value.trim_matches(['<', '>', ' ']);
    (!bare.is_empty() && !bare.contains(' ') && !bare.eq_ignore_ascii_case("unknown")).then(|| bare.to_owned())
}

/// `smtp; 550 …` without its type.
fn without_type(value: &str) -> &str {
    match value.split_once(';') {
        Some((kind, rest)) if kind.trim().len() <= 24 && !kind.trim().contains(' ') => rest.trim(),
        _ => value.trim(),
    }
}
