fn main() {
    let mut args = std::env::args().skip(1);
    let mut o = postkeep_rehearsal::Options::new(args.next().unwrap());
    o.recipients = args.next().unwrap().parse().unwrap();
    o.hurry = args.next().unwrap().parse().unwrap();
    o.deadline = std::time::Duration::from_secs(args.next().unwrap().parse().unwrap());
    o.daemon = Some(std::env::var("DAEMON").unwrap_or("/tmp/postkeepd-try".into()).into());
    o.scratch = Some("/tmp/rehearsal-try".into());
    let rt = tokio::runtime::Runtime::new().unwrap();
    if args.next().is_some() {
        let r = rt.block_on(postkeep_rehearsal::serve(o, |n| match n {
            postkeep_rehearsal::News::Up(a) => eprintln!("{a}"),
            postkeep_rehearsal::News::Done(s) => eprintln!("{s}"),
        }));
        eprintln!("{r:?}");
        return;
    }
    let r = rt.block_on(postkeep_rehearsal::rehearse(o));
    match r {
        Ok(s) => { eprintln!("{s}"); std::fs::write("/tmp/rehearsal-try/summary.json", s.to_json()).unwrap(); }
        Err(e) => eprintln!("ERROR {e}"),
    }
}
