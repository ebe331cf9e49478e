//! `message/delivery-status` (RFC 3464): a block about the message, then one for each recipient.

use postkeep_deliverability::reply::Stage;

use crate::address;
use crate::codes::stage_of;
use crate::judgement::{Evidence, judge};
use crate::opened::PartKind;
use crate::prose;
use crate::{Finding, Kind, MOST_FINDINGS, Material};

/// The recipients of the first report in the message.
pub(crate) fn read(material: &Material<'_>) -> Vec<Finding> {
    let mut findings: Vec<Finding> = Vec::new();
    // Such a part in a letter is what somebody passes on.
    if !material.sender.may_report() {
        return findings;
    }
    let senders = material.opened.senders();
    let opened = material.opened;
    // Where the parts have come apart, the report stands among the words.
    let in_words = opened.of(PartKind::Text).filter(|text| {
        (material.sender.is_mailer || material.sender.is_report)
            && ["\nFinal-Recipient:", "\nReporting-MTA:"].iter().all(|name| has(text, name))
    });
    for text in opened.of(PartKind::DeliveryStatus).chain(in_words) {
        let blocks = blocks(text);
        let is_one = blocks.iter().filter(|block| block.iter().any(|(name, _)| name == "final-recipient")).count() <= 1;
        for block in blocks {
            if findings.len() >= MOST_FINDINGS {
                break;
            }
            findings.extend(recipient(material, &block, is_one, &senders));
        }
        if !findings.is_empty() {
            break;
        }
    }
    findings
}

/// Whether a text holds a field's name at the beginning of a line.
fn has(text: &str, name: &str) -> bool {
    text.to_ascii_lowercase().contains(&name.to_ascii_lowercase())
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

fn recipient(material: &Material<'_>, block: &Block, is_one: bool, senders: &[String]) -> Option<Finding> {
    let (opened, words) = (material.opened, material.words);
    let field = |name: &str| block.iter().find(|(own, _)| own == name).map(|(_, value)| value.as_str());
    // Whom we wrote to counts, not whom it was forwarded to.
    let named = ["original-recipient", "final-recipient", "x-actual-recipient"];
    let addresses: Vec<String> = named
        .iter()
        .filter_map(|name| field(name))
        .filter_map(|value| address::of_field(value).or_else(|| bare(value)))
        .collect();
    let action = field("action").map(|action| action.to_ascii_lowercase()).unwrap_or_default();
    if addresses.is_empty() && action.is_empty() {
        return None;
    }
    // Exim names the address that an alias or a forwarding led to, and in the words whose it was.
    let parent = match (field("original-recipient"), addresses.first()) {
        (None, Some(first)) => prose::parent(words, first),
        _ => None,
    };
    // A report about some recipients need not name them where the message itself does.
    let address = parent
        .or_else(|| addresses.first().cloned())
        .or_else(|| opened.header("x-failed-recipients").and_then(address::first_address));
    let (kind_of_text, diagnostic) = field("diagnostic-code").map(typed).unwrap_or_default();
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
    let near = addresses.iter().chain(&address).find_map(|address| prose::about(words, address));
    let (said, is_own) = match (diagnostic.is_empty(), &near) {
        (false, _) => (diagnostic.to_owned(), true),
        // All of the words are about the one.
        (true, _) if is_one && kind == Kind::Bounce => (prose::beginning(words), true),
        (true, Some(near)) => (near.clone(), true),
        (true, None) => (prose::beginning(words), false),
    };
    // Another recipient may have been refused at another command.
    let whole = || if is_one { Some(words) } else { None };
    let stage: Option<Stage> = near.as_deref().and_then(stage_of).or_else(|| whole().and_then(stage_of));
    let remote_host = field("remote-mta").map(|value| typed(value).1);
    let aliases: Vec<&str> = addresses.iter().map(String::as_str).collect();
    let evidence = Evidence {
        kind,
        said: &said,
        is_quoted: !diagnostic.is_empty(),
        is_local: kind_of_text.starts_with("x-") && remote_host.is_none(),
        stage,
        is_own,
        is_only: is_one,
        is_attested: material.sender.is_report || material.sender.is_attested(),
        is_waiting: near.as_deref().or_else(whole).is_some_and(prose::is_waiting),
        status_field: field("status"),
        is_report: true,
        remote_host,
        aliases: &aliases,
        senders,
    };
    Some(judge(address, &evidence, material.book))
}

/// What names a recipient without being an address as we know them: `rfc822; user`.
fn bare(value: &str) -> Option<String> {
    let (kind, value) = typed(value);
    if kind == "x400" {
        return None;
    }
    let bare = value.trim_matches(['<', '>', ' ']);
    (!bare.is_empty() && !bare.contains([' ', '/']) && !bare.eq_ignore_ascii_case("unknown")).then(|| bare.to_owned())
}

/// `smtp; 550 …`: the type in lower case, and the rest.
fn typed(value: &str) -> (String, &str) {
    match value.split_once(';') {
        Some((kind, rest)) if kind.trim().len() <= 24 && !kind.trim().contains(' ') => {
            (kind.trim().to_ascii_lowercase(), rest.trim())
        }
        _ => (String::new(), value.trim()),
    }
}
