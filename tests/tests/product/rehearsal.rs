//! A whole rehearsal, small: both doors, DNSSEC with DANE and MTA-STS, mail that comes back, suppressions learnt. The
//! oracle is the rehearsal's own judge, who shares no code with what it judges; and so that the judge is not believed
//! blindly, one configuration breaks a promise on purpose.

use std::process::Command;

use postkeep_tests::Ground;
use postkeep_tests::daemon::run;
use postkeep_tests::tools;
use serde_json::Value;

/// The demonstration's configuration, with `more` after it.
fn rehearse(more: &str, recipients: &str, seed: &str) -> (i32, Value) {
    let ground = Ground::claim();
    let demonstration = tools::workspace().join("appliance/rehearsal/demo/postkeep.toml");
    let text = std::fs::read_to_string(demonstration).expect("the demonstration");
    let configuration = ground.folder().join("postkeep.toml");
    std::fs::write(&configuration, format!("{text}\n{more}")).expect("write the configuration");
    let said = run(Command::new(tools::program("postkeep"))
        .args(["--json", "rehearse", "--quiet", "--hurry", "1200", "--deadline", "50"])
        .args(["--recipients", recipients, "--seed", seed])
        .arg("--daemon")
        .arg(tools::program("postkeepd"))
        .arg("--config")
        .arg(&configuration));
    let summary = serde_json::from_str(&said.out).unwrap_or_else(|error| panic!("{error}: {said:?}"));
    (said.status, summary)
}

fn count(summary: &Value, path: &str) -> u64 {
    summary.pointer(path).and_then(Value::as_u64).unwrap_or_else(|| panic!("no count {path} in {summary:#}"))
}

#[test]
fn a_small_rehearsal_shows_both_doors_protection_and_suppressions_learnt_and_keeps_every_promise() {
    let (status, summary) = rehearse("", "1500", "1");
    assert_eq!((status, &summary["kept"]), (0, &Value::Bool(true)), "{summary:#}");
    assert_eq!(count(&summary, "/accepted"), 1500);
    let (messages, by_http) = (count(&summary, "/messages"), count(&summary, "/messages_by_http"));
    assert!(by_http > messages / 5 && by_http < messages / 2, "{by_http} of {messages} by HTTP");
    for policy in ["dane", "mta-sts", "mta-sts-testing", "opportunistic"] {
        assert!(count(&summary, &format!("/tls/policies/{policy}")) > 0, "{summary:#}");
    }
    // Nobody is delivered to hosts that are not who their domain says; their mail waits until it expires.
    let impostors = |key: &str| count(&summary, &format!("/providers/impostors/{key}"));
    assert!(impostors("accepted") > 0);
    assert_eq!((impostors("delivered"), impostors("expired")), (0, impostors("accepted")));
    assert_eq!(count(&summary, "/tls/held_back"), impostors("accepted"));
    let back = |key: &str| count(&summary, &format!("/came_back/{key}"));
    for key in ["bounces", "complaints", "auto_replies"] {
        assert!(back(key) > 0, "no {key}: {summary:#}");
    }
    assert_eq!((back("learnt_bounces"), back("learnt_complaints")), (back("bounces"), back("complaints")));
    assert_eq!(back("second_wave"), back("bounces") + back("complaints"));
    assert_eq!(back("second_wave_suppressed"), back("second_wave"));
}

#[test]
fn mail_in_the_clear_where_a_policy_demands_tls_is_a_broken_promise() {
    let (status, summary) = rehearse("[provider.google]\ntls = \"none\"\n", "60", "3");
    assert_eq!((status, &summary["kept"]), (1, &Value::Bool(false)), "{summary:#}");
    assert!(count(&summary, "/policy_violations") > 0);
    assert_eq!(count(&summary, "/policy_violations"), count(&summary, "/providers/google/policy_violations"));
    let verdict = summary["verdict"].to_string();
    assert!(verdict.contains("broke DANE or MTA-STS"), "{verdict}");
}
