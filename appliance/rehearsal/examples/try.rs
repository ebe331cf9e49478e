fn main() {
    let mut args = std::env::args().skip(1);
    let mut o = postkeep_rehearsal::Options::new(args.next().unwrap());
    o.recipients = args.next().unwrap().parse().unwrap();
    o.hurry = args.next().unwrap().parse().unwrap();
    o.deadline = std::time::Duration::from_secs(args.next().unwrap().parse().unwrap());
    o.daemon = Some("/tmp/postkeepd-try".into());
    o.scratch = Some("/tmp/rehearsal-try".into());
    let r = tokio::runtime::Runtime::new().unwrap().block_on(postkeep_rehearsal::rehearse(o));
    match r {
        Ok(s) => {
            eprintln!("{s}");
            std::fs::write("/tmp/rehearsal-try/summary.json", s.to_json()).unwrap();
        }
        Err(e) => eprintln!("ERROR {e}"),
    }
}
