//! The column bounceCat, and the words behind a status code in dsnStatus.

use std::collections::BTreeMap;
use std::sync::LazyLock;

use serde::Deserialize;

/// From classes to categories, as data.
const DATA: &str = include_str!("categories.toml");
/// What is in no list.
const OTHER: &str = "other";

#[derive(Deserialize)]
struct Data {
    category: BTreeMap<String, String>,
}

static CATEGORIES: LazyLock<BTreeMap<String, String>> =
    // Part of the program, and read by a test.
    LazyLock::new(|| toml::from_str::<Data>(DATA).map(|data| data.category).unwrap_or_default());

/// The category of an event.
pub(super) fn category(event: &str, class: &str, stage: &str) -> &'static str {
    match event {
        "expired" => return "message-expired",
        // Neither is a receiver's word.
        "suppressed" | "removed" => return OTHER,
        _ => {}
    }
    let by_stage = match stage {
        "dns" => "routing-errors",
        "bind" => "bad-configuration",
        "connect" => "no-answer-from-host",
        "greeting" | "ehlo" | "tls" => "bad-connection",
        _ => OTHER,
    };
    CATEGORIES.get(class).map_or(by_stage, String::as_str)
}

/// What a status code says (RFC 3463 §3), in the words of PowerMTA where they are known.
pub(super) fn status_text(status: &str) -> &'static str {
    let (class, detail) = status.split_once('.').unwrap_or(("", ""));
    match detail {
        "0.0" if class == "2" => "success",
        "0.0" => "undefined status",
        "1.0" => "other address status",
        "1.1" => "bad destination mailbox address",
        "1.2" => "bad destination system address",
        "1.3" => "bad destination mailbox address syntax",
        "1.4" => "destination mailbox address ambiguous",
        "1.5" => "destination address valid",
        "1.6" => "destination mailbox has moved",
        "1.7" => "bad sender's mailbox address syntax",
        "1.8" => "bad sender's system address",
        "1.10" => "recipient address has null MX",
        "2.0" => "other or undefined mailbox status",
        "2.1" => "mailbox disabled",
        "2.2" => "mailbox full",
        "2.3" => "message length exceeds administrative limit",
        "2.4" => "mailing list expansion problem",
        "3.0" => "other or undefined mail system status",
        "3.1" => "mail system full",
        "3.2" => "system not accepting network messages",
        "3.3" => "system not capable of selected features",
        "3.4" => "message too big for system",
        "4.0" => "other or undefined network or routing status",
        "4.1" => "no answer from host",
        "4.2" => "bad connection",
        "4.3" => "directory server failure",
        "4.4" => "unable to route",
        "4.5" => "mail system congestion",
        "4.6" => "routing loop detected",
        "4.7" => "delivery time expired",
        "5.0" => "other or undefined protocol status",
        "5.1" => "invalid command",
        "5.2" => "syntax error",
        "5.3" => "too many recipients",
        "5.4" => "invalid command arguments",
        "5.5" => "wrong protocol version",
        "6.0" => "other or undefined media error",
        "6.1" => "media not supported",
        "6.2" => "conversion required and prohibited",
        "6.3" => "conversion required but not supported",
        "6.5" => "conversion failed",
        "6.7" => "address not supported",
        "7.0" => "other or undefined security status",
        "7.1" => "delivery not authorized, message refused",
        "7.2" => "mailing list expansion prohibited",
        "7.4" => "security features not supported",
        "7.5" => "cryptographic failure",
        "7.8" => "authentication credentials invalid",
        "7.13" => "user account disabled",
        "7.20" => "no passing DKIM signature found",
        "7.23" => "SPF validation failed",
        "7.25" => "reverse DNS validation failed",
        "7.26" => "multiple authentication checks failed",
        "7.27" => "sender address has null MX",
        "7.28" => "mail flood detected",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The 17 categories of the User's Guide.
    const KNOWN: [&str; 17] = [
        "bad-configuration",
        "bad-connection",
        "bad-domain",
        "bad-mailbox",
        "content-related",
        "inactive-mailbox",
        "invalid-sender",
        "message-expired",
        "no-answer-from-host",
        "other",
        "policy-related",
        "protocol-errors",
        "quota-issues",
        "relaying-issues",
        "routing-errors",
        "spam-related",
        "virus-related",
    ];

    #[test]
    fn categories_are_those_that_powermta_knows() {
        // That every class of the rule book has one is tested where both can be seen: tests/tests/categories.rs.
        assert!(!CATEGORIES.is_empty());
        for (class, category) in CATEGORIES.iter() {
            assert!(KNOWN.contains(&category.as_str()), "{class}: {category}");
        }
        assert_eq!(category("bounced", "bad-mailbox", "rcpt"), "bad-mailbox");
        assert_eq!(category("expired", "bad-mailbox", "rcpt"), "message-expired");
        assert_eq!(category("attempted", "", "connect"), "no-answer-from-host");
    }
}
