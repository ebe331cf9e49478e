//! The protocol as a whole: every order in which custodians may answer, with everything that may go wrong between them.

use std::collections::{BTreeMap, BTreeSet};
use std::num::NonZeroU8;
use std::time::Duration;

use age::x25519::Identity;
use proptest::prelude::*;

use crate::{
    Answer, Cause, Counts, Custodian, Grade, Held, KeySet, KeySetError, Made, Name, Offer, Purpose, Quorum, Recipient,
    Refusal, Secret, Share, Sum, System, Token, TokenError, Unseal, VolumeId, envelope,
};

const VOLUME: &str = "1b9d6bcd-bbfd-4b2d-9b5d-ab8dfbbd4bed";

/// Custodians with their identities, a token for them, and what it was made of.
struct House {
    identities: BTreeMap<(Purpose_, Name), Identity>,
    made: Made,
    set: KeySet,
}

/// [`Purpose`], in an order.
type Purpose_ = bool;

fn is_recovery(purpose: Purpose) -> Purpose_ {
    purpose == Purpose::Recovery
}

fn volume() -> VolumeId {
    VOLUME.parse().unwrap()
}

fn name(text: &str) -> Name {
    text.parse().unwrap()
}

/// Custodians c1, c2… and for recovery r1, r2….
fn house(threshold: u8, count: u8, recovery: Option<(u8, u8)>, epoch: u64) -> House {
    let mut identities = BTreeMap::new();
    let mut custodians = |letter: char, purpose: Purpose, count: u8| -> Vec<Custodian> {
        let custodian = |number| {
            let identity = Identity::generate();
            let name = name(&format!("{letter}{number}"));
            let recipients = vec![Recipient::of(&identity)];
            identities.insert((is_recovery(purpose), name.clone()), identity);
            Custodian { name, recipients }
        };
        (1..=count).map(custodian).collect()
    };
    let set = KeySet {
        threshold,
        custodians: custodians('c', Purpose::Opening, count),
        recovery: recovery
            .map(|(threshold, count)| Quorum { threshold, custodians: custodians('r', Purpose::Recovery, count) }),
    };
    let made = Token::make(&set, &volume(), epoch, &mut System).unwrap();
    House { identities, made, set }
}

impl House {
    fn held(&self, purpose: Purpose, name: &Name) -> Held {
        let identity = &self.identities[&(is_recovery(purpose), name.clone())];
        self.made.token.open_shares(None, &[identity]).unwrap().remove(0)
    }

    fn answer(&self, offer: &Offer, purpose: Purpose, name: &Name) -> Answer {
        Answer {
            token: offer.token,
            boot: offer.boot,
            held: self.held(purpose, name),
            grade: Grade::A1,
            reason: "planned work".to_owned(),
            change: None,
        }
    }

    fn box_of(&self) -> Unseal {
        Unseal::begin(self.made.token.clone(), Cause::Planned, &mut System)
    }
}

/// What may reach a sealed box.
#[derive(Debug, Clone)]
enum Act {
    /// The answer of the custodian with this number.
    Right(u8),
    /// One with a share that was changed.
    WrongShare(u8),
    /// One with the share of somebody else, in their name.
    Borrowed(u8),
    /// One that was given at another start.
    OtherBoot(u8),
    /// One that was given at another start, encrypted to that start.
    Replayed(u8),
    /// One with the share of an earlier epoch.
    OldEpoch(u8),
    /// One to an earlier epoch's token.
    OldToken(u8),
    OtherAim(u8),
    /// One whose share is used for what it is not for.
    OtherPurpose(u8),
    /// One of which an octet was changed on its way.
    Damaged(u8, usize),
    /// Octets.
    Noise(Vec<u8>),
    /// More than an answer can have.
    Oversized,
}

fn act(count: u8) -> impl Strategy<Value = Act> {
    let who = 1..=count;
    prop_oneof![
        6 => who.clone().prop_map(Act::Right),
        1 => who.clone().prop_map(Act::WrongShare),
        1 => who.clone().prop_map(Act::Borrowed),
        1 => who.clone().prop_map(Act::OtherBoot),
        1 => who.clone().prop_map(Act::Replayed),
        1 => who.clone().prop_map(Act::OldEpoch),
        1 => who.clone().prop_map(Act::OldToken),
        1 => who.clone().prop_map(Act::OtherAim),
        1 => who.clone().prop_map(Act::OtherPurpose),
        1 => (who, any::<usize>()).prop_map(|(who, at)| Act::Damaged(who, at)),
        1 => proptest::collection::vec(any::<u8>(), 0..200).prop_map(Act::Noise),
        1 => Just(Act::Oversized),
    ]
}

/// What the box is sent for `act`, and whether it is a right answer, and whose.
fn message(
    house: &House,
    old: &House,
    opener: &Unseal,
    elsewhere: &Unseal,
    count: u8,
    act: &Act,
) -> (Vec<u8>, Option<Name>) {
    let offer = opener.offer();
    let custodian = |number: &u8| name(&format!("c{number}"));
    let of = |number: &u8| house.answer(offer, Purpose::Opening, &custodian(number));
    let sealed = |answer: Answer| (answer.seal(offer).unwrap(), None);
    match act {
        Act::Right(number) => (of(number).seal(offer).unwrap(), Some(custodian(number))),
        Act::WrongShare(number) => {
            let mut answer = of(number);
            let octets = *answer.held.share.values.expose();
            answer.held.share.values = Secret::fill(|values| {
                *values = octets;
                values[usize::from(*number)] ^= 1;
            });
            sealed(answer)
        }
        Act::Borrowed(number) => {
            let mut answer = of(number);
            answer.held.name = custodian(&(number % count + 1));
            // The only custodian there is borrows from nobody.
            if count == 1 { (answer.seal(offer).unwrap(), Some(custodian(number))) } else { sealed(answer) }
        }
        Act::OtherBoot(number) => sealed(Answer { boot: elsewhere.offer().boot, ..of(number) }),
        Act::Replayed(number) => (
            house.answer(elsewhere.offer(), Purpose::Opening, &custodian(number)).seal(elsewhere.offer()).unwrap(),
            None,
        ),
        Act::OldEpoch(number) => {
            let held = old.held(Purpose::Opening, &custodian(number));
            // Said of the new token it is a wrong share.
            sealed(Answer { held, ..of(number) })
        }
        Act::OldToken(number) => sealed(Answer { token: old.made.token.sum(), ..of(number) }),
        Act::OtherPurpose(number) => {
            let mut answer = of(number);
            answer.held.purpose = Purpose::Recovery;
            sealed(answer)
        }
        Act::OtherAim(number) => sealed(Answer { change: Some(house.set.clone()), ..of(number) }),
        Act::Damaged(number, at) => {
            let mut file = of(number).seal(offer).unwrap();
            let at = at % file.len();
            file[at] ^= 0x20;
            (file, None)
        }
        Act::Noise(octets) => (octets.clone(), None),
        Act::Oversized => (vec![b'a'; envelope::LARGEST_ENVELOPE + 1], None),
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, ..ProptestConfig::default() })]

    /// The model: a set of names. The box opens exactly when it has as many as the threshold, and nothing else counts.
    #[test]
    fn a_box_opens_to_a_quorum_and_to_nothing_else(
        (count, threshold, acts) in (1..=4_u8)
            .prop_flat_map(|count| (Just(count), 1..=count, proptest::collection::vec(act(count), 0..24)))
    ) {
        let house = house(threshold, count, None, 2);
        let old = {
            let made = Token::make(&house.set, &volume(), 1, &mut System).unwrap();
            House { identities: house.identities.clone(), made, set: house.set.clone() }
        };
        let (mut opener, elsewhere) = (house.box_of(), house.box_of());
        let mut answered = BTreeSet::new();
        for act in &acts {
            let (file, right) = message(&house, &old, &opener, &elsewhere, count, act);
            let before = opener.progress(Purpose::Opening);
            match (opener.take(&file, Duration::ZERO), right) {
                (Err(_), None) => prop_assert_eq!(opener.progress(Purpose::Opening), before),
                (Ok(Counts::Again(progress)), Some(name)) => {
                    prop_assert!(answered.contains(&name));
                    prop_assert_eq!(Some(progress), before);
                }
                (Ok(Counts::Waiting(progress)), Some(name)) => {
                    prop_assert!(answered.insert(name));
                    prop_assert!(answered.len() < usize::from(threshold));
                    prop_assert_eq!(progress.answered.into_iter().collect::<BTreeSet<_>>(), answered.clone());
                }
                (Ok(Counts::Enough(opening)), Some(name)) => {
                    answered.insert(name);
                    prop_assert_eq!(answered.len(), usize::from(threshold));
                    prop_assert_eq!(&opening.secret, &house.made.opening);
                    prop_assert_eq!(opening.witnesses.len(), usize::from(threshold));
                    // The shares were used up.
                    answered.clear();
                    prop_assert!(opener.progress(Purpose::Opening).unwrap().answered.is_empty());
                }
                (outcome, right) => prop_assert!(false, "{:?}, which is right: {:?}, led to {:?}", act, right, outcome),
            }
        }
    }
}

/// Every order in which four custodians may answer a box that takes three, each with one wrong answer before and one after.
#[test]
fn every_order_of_custodians_opens_with_the_third() {
    let house = house(3, 4, None, 1);
    let names: Vec<Name> = (1..=4).map(|number| name(&format!("c{number}"))).collect();
    let mut orders = 0;
    for a in 0..4 {
        for b in (0..4).filter(|b| *b != a) {
            for c in (0..4).filter(|c| *c != a && *c != b) {
                let mut opener = house.box_of();
                let offer = opener.offer().clone();
                for (place, at) in [a, b, c].into_iter().enumerate() {
                    let right = house.answer(&offer, Purpose::Opening, &names[at]);
                    let mut wrong = right.clone();
                    wrong.held.share.place = NonZeroU8::new(9).unwrap();
                    let wrong = wrong.seal(&offer).unwrap();
                    assert!(matches!(opener.take(&wrong, Duration::ZERO), Err(Refusal::WrongShare { .. })));
                    let counts = opener.take(&right.seal(&offer).unwrap(), Duration::ZERO).unwrap();
                    match counts {
                        Counts::Enough(opening) => {
                            assert_eq!((place, &opening.secret), (2, &house.made.opening));
                        }
                        other => assert!(place < 2 && matches!(other, Counts::Waiting(_)), "{other:?}"),
                    }
                    assert!(opener.take(&wrong, Duration::ZERO).is_err());
                }
                orders += 1;
            }
        }
    }
    assert_eq!(orders, 24);
}

#[test]
fn what_does_not_count_is_named() {
    let house = house(2, 3, Some((1, 1)), 2);
    let mut opener = house.box_of();
    let offer = opener.offer().clone();
    let anna = name("c1");
    let right = house.answer(&offer, Purpose::Opening, &anna);
    let refused = |opener: &mut Unseal, answer: Answer| {
        opener.take(&answer.seal(&offer).unwrap(), Duration::ZERO).unwrap_err().to_string()
    };

    let boot = house.box_of().offer().boot;
    let said = refused(&mut opener, Answer { boot, ..right.clone() });
    assert!(said.contains("calls themselves c1") && said.contains("another start"), "{said}");
    let said = refused(&mut opener, Answer { token: Sum::of(b"another"), ..right.clone() });
    assert!(said.contains("calls themselves c1") && said.contains("another token"), "{said}");
    let mut stranger = right.clone();
    stranger.held.name = name("mallory");
    let said = refused(&mut opener, stranger);
    assert!(said.contains("calls themselves mallory"), "{said}");
    let mut wrong = right.clone();
    wrong.held.share = house.held(Purpose::Opening, &name("c2")).share;
    let said = refused(&mut opener, wrong);
    assert!(said.contains("is not the one which c1 was given"), "{said}");
    assert!(opener.progress(Purpose::Opening).unwrap().answered.is_empty());
}

#[test]
fn recovery_and_opening_do_not_mix() {
    let house = house(2, 2, Some((2, 2)), 1);
    let mut opener = house.box_of();
    let offer = opener.offer().clone();
    let take = |opener: &mut Unseal, purpose, who: &str| {
        opener.take(&house.answer(&offer, purpose, &name(who)).seal(&offer).unwrap(), Duration::ZERO).unwrap()
    };
    assert!(matches!(take(&mut opener, Purpose::Opening, "c1"), Counts::Waiting(_)));
    assert!(matches!(take(&mut opener, Purpose::Recovery, "r2"), Counts::Waiting(_)));
    let Counts::Enough(opening) = take(&mut opener, Purpose::Recovery, "r1") else { panic!("two of two") };
    assert_eq!(Some(&opening.secret), house.made.recovery.as_ref());
    assert_eq!(opening.purpose, Purpose::Recovery);
    let Counts::Enough(opening) = take(&mut opener, Purpose::Opening, "c2") else { panic!("c1 had answered") };
    assert_eq!(&opening.secret, &house.made.opening);
}

#[test]
fn a_token_goes_through_its_text() {
    let token = house(2, 3, Some((2, 3)), 7).made.token;
    let text = token.text();
    assert_eq!(Token::parse(text).unwrap(), token);
    for (from, to, said) in [
        ("format = 1", "format = 2", "reads format 1"),
        ("threshold = 2", "threshold = 4", "4 of 3"),
        ("threshold = 2", "threshold = 0", "0 of 3"),
        ("name = \"c2\"", "name = \"c1\"", "c1 is there twice"),
        ("name = \"c2\"", "name = \"../c2\"", "small letters"),
        ("epoch = 7", "epoch = -7", "epoch"),
        ("epoch = 7", "epoch = 7\nextra = 1", "unknown field `extra`"),
        ("share = \"", "share = \"!", "share of c1"),
        ("commitment = \"", "commitment = \"z", "64 small hexadecimal digits"),
    ] {
        let changed = text.replacen(from, to, 1);
        assert_ne!(changed, text, "{from}");
        let error = Token::parse(&changed).unwrap_err().to_string();
        assert!(error.contains(said), "{from} → {to}: {error}");
    }
    let large = format!("{text}#{}", "x".repeat(crate::LARGEST_TOKEN));
    assert!(Token::parse(&large).unwrap_err().to_string().contains("are read at most"));
}

#[test]
fn a_share_of_another_epoch_or_box_is_refused_by_the_custodians_own_tool() {
    let house = house(2, 3, None, 1);
    let anna = name("c1");
    let identity = &house.identities[&(false, anna.clone())];
    let later = Token::make(&house.set, &volume(), 2, &mut System).unwrap().token;
    let elsewhere = "00000000-0000-4000-8000-000000000000".parse().unwrap();
    let elsewhere = Token::make(&house.set, &elsewhere, 1, &mut System).unwrap().token;
    for other in [later, elsewhere] {
        // The age file of one token, put into another.
        let mut mixed = house.made.token.clone();
        mixed.opening.holders[0].share.clone_from(&other.opening.holders[0].share);
        assert_eq!(mixed.open_shares(None, &[identity]), Err(TokenError::Commitment { name: anna.clone() }));
        // Its commitment as well: it says itself what it is for.
        mixed.opening.holders[0].commitment = other.opening.holders[0].commitment;
        assert_eq!(mixed.open_shares(None, &[identity]), Err(TokenError::Commitment { name: anna.clone() }));
    }
    let error = house.made.token.open_shares(Some(&name("otto")), &[identity]).unwrap_err().to_string();
    assert!(error.contains("nobody called otto") && error.contains("c1, c2, c3"), "{error}");
    let stranger = Identity::generate();
    assert!(matches!(house.made.token.open_shares(None, &[&stranger]), Err(TokenError::NotOurs { .. })));
}

#[test]
fn key_sets_that_would_not_hold_are_refused_or_warned_of() {
    let text = |threshold: u8, second: &str| {
        format!(
            "threshold = {threshold}\n\
             [[custodian]]\nname = \"anna\"\n\
             recipients = [\"age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p\"]\n\
             [[custodian]]\nname = \"ben\"\nrecipients = [{second}]\n"
        )
    };
    let other = format!("\"{}\"", Recipient::of(&Identity::generate()));
    let set = KeySet::parse(&text(2, &other)).unwrap();
    assert_eq!(KeySet::parse(&set.text().unwrap()).unwrap(), set);
    let warnings = set.warnings().join("\n");
    assert!(warnings.contains("one lost share is the loss of all data"), "{warnings}");
    let set = KeySet::parse(&text(1, &other)).unwrap();
    assert!(set.warnings().join("\n").contains("any one of 2"));

    let same = "\"age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p\"";
    let error = KeySet::parse(&text(2, same)).unwrap_err();
    assert!(matches!(error, KeySetError::RecipientTwice { .. }), "{error}");
    assert!(KeySet::parse(&text(2, "")).unwrap_err().to_string().contains("ben has 0 recipients"));
    assert!(KeySet::parse(&text(3, &other)).unwrap_err().to_string().contains("3 of 2 custodians cannot open"));
    let error = KeySet::parse(&text(1, "\"age1yubikey1qwt50d05nh5vutpdzmlg5wn80xq5negm4uj9ghv0snvdd3yysf5yw3rhl3t\""))
        .unwrap_err();
    assert!(error.to_string().contains("belongs to a plugin"), "{error}");
}

#[test]
fn shares_agree_with_another_implementation() {
    use rand::SeedableRng as _;
    use vsss_rs::Gf256;

    let secret: Vec<u8> = (0..32).map(|at| at * 7 + 3).collect();
    let theirs = Gf256::split_array(3, 5, &secret, rand::rngs::StdRng::seed_from_u64(7)).unwrap();
    let shares: Vec<Share> = theirs
        .iter()
        .map(|share| Share {
            place: NonZeroU8::new(share[0]).unwrap(),
            values: Secret::fill(|values| values.copy_from_slice(&share[1..])),
        })
        .collect();
    assert_eq!(crate::combine(&shares[1..4], 3).unwrap().expose()[..], secret);
    let ours = crate::split(&Secret::fill(|octets| octets.copy_from_slice(&secret)), 3, 5, &mut System).unwrap();
    let ours: Vec<Vec<u8>> =
        ours.iter().map(|share| [&[share.place.get()], &share.values.expose()[..]].concat()).collect();
    assert_eq!(Gf256::combine_array(&ours[2..]).unwrap(), secret);
}

#[test]
fn the_largest_key_set_there_may_be_fits_into_an_answer() {
    use aws_lc_rs::signature::{Ed25519KeyPair, KeyPair as _};
    use base64::Engine as _;

    // The longest kind of recipient: that of an SSH key, in the form of RFC 4253, 6.6.
    let recipient = || {
        let pair = Ed25519KeyPair::generate().unwrap();
        let form = [b"\0\0\0\x0bssh-ed25519\0\0\0\x20", pair.public_key().as_ref()].concat();
        format!("ssh-ed25519 {}", base64::prelude::BASE64_STANDARD.encode(form)).parse().unwrap()
    };
    let longest = |kind: char| {
        let custodian = |number| Custodian {
            name: name(&format!("{kind}{number:031}")),
            recipients: vec![recipient(), recipient()],
        };
        (0..crate::MOST_SHARES).map(custodian).collect::<Vec<_>>()
    };
    let recovery = Some(Quorum { threshold: 32, custodians: longest('r') });
    let set = KeySet { threshold: 32, custodians: longest('c'), recovery };
    set.check().unwrap();
    let house = house(1, 1, None, 1);
    let mut opener = Unseal::begin(house.made.token.clone(), Cause::Change, &mut System);
    let offer = opener.offer().clone();
    let right = house.answer(&offer, Purpose::Opening, &name("c1"));
    let answer =
        Answer { change: Some(set.clone()), reason: "\"".repeat(crate::answer::LONGEST_REASON), ..right.clone() };
    let taken = opener.take(&answer.seal(&offer).unwrap(), Duration::ZERO).unwrap();
    assert!(matches!(taken, Counts::Agreed(_, wanted) if wanted == set));
    // One that could not be is named, whoever made it.
    let mut opener = Unseal::begin(house.made.token.clone(), Cause::Change, &mut System);
    let offer = opener.offer().clone();
    let answer = Answer { boot: offer.boot, change: Some(KeySet { threshold: 33, ..set }), ..right };
    let error = opener.take(&answer.seal(&offer).unwrap(), Duration::ZERO).unwrap_err();
    assert!(error.to_string().contains("33 of 32 custodians cannot open"), "{error}");
}

#[test]
fn an_offer_can_be_copied_from_the_screen() {
    let offer = house(1, 1, None, 1).box_of().offer().clone();
    let text = offer.to_string();
    assert!(text.len() < 250 && !text.contains(char::is_whitespace), "{text}");
    assert_eq!(format!(" {text}\n").parse::<Offer>().unwrap(), offer);
    // Whatever character of the key was misread, its own sum finds it.
    let at = text.rfind(':').unwrap();
    for changed in at + 6..text.len() {
        let mut octets = text.clone().into_bytes();
        octets[changed] = if octets[changed] == b'q' { b'p' } else { b'q' };
        let misread = String::from_utf8(octets).unwrap();
        assert!(misread.parse::<Offer>().is_err(), "{misread}");
    }
    for wrong in
        ["", "postkeep-offer-2:x", &text[..text.len() - 1], &text.replace("planned", "fun"), &format!("{text}:more")]
    {
        assert!(wrong.parse::<Offer>().is_err(), "{wrong}");
    }
}

/// Computed with Python's hmac and hashlib. Boxes in use depend on each of these: whoever changes one closes every volume for good.
#[test]
fn formats_are_what_they_were() {
    let octets = |octet: u8| Secret::fill(|octets| octets.fill(octet));
    let derived = |tpm: Option<&Secret>, purpose| {
        let derived = crate::passphrase(&octets(1), tpm, purpose, &volume(), 7);
        derived.expose().iter().map(|octet| format!("{octet:02x}")).collect::<String>()
    };
    assert_eq!(derived(None, Purpose::Opening), "d79fe06ac00367039dc31db49623ec350af5efa824b0a994eff87eac7b860071");
    assert_eq!(
        derived(Some(&octets(2)), Purpose::Opening),
        "9517ff24d1a5af968a41ced3ff80db054b7f6aa6611343e9eb0ceb7360f8f4a4"
    );
    assert_eq!(derived(None, Purpose::Recovery), "dce78b858c584647f831afdd3796f043554c5349acc115648415781f0a95f1d6");

    let share = Share { place: NonZeroU8::new(3).unwrap(), values: octets(5) };
    let recipients = ["age1ql3z7hjy54pw3hyww5ayyfg7zqgvc7w3j2elw8zmrj2kg5sfn9aqmcac8p".parse().unwrap()];
    let (volume, name) = (volume(), name("anna"));
    let belonging =
        crate::Belonging { purpose: Purpose::Opening, volume: &volume, epoch: 7, name: &name, recipients: &recipients };
    assert_eq!(
        crate::Commitment::to(&share, belonging).to_string(),
        "f8b78509121651fb5fc18833268eedaeaadf2f61069d444a8d5fc58f147f955c"
    );
    let words = "adapt choice donor anxiety expect little beef pass agree choice donor anxiety expect little beef pass agree \
                 choice donor anxiety expect little beef pass life add";
    assert_eq!(crate::words::words(&share).join(" "), words);
    assert_eq!(crate::words::share(words).unwrap(), share);
}

#[test]
fn recipients_that_somebody_has_exchanged_are_seen_by_their_custodian() {
    let house = house(2, 2, None, 1);
    let text = house.made.token.text().to_owned();
    let theirs = house.made.token.opening.holders[0].recipients[0].to_string();
    let changed = text.replacen(&theirs, &Recipient::of(&Identity::generate()).to_string(), 1);
    let token = Token::parse(&changed).unwrap();
    let identity = &house.identities[&(false, name("c1"))];
    assert_eq!(token.open_shares(None, &[identity]), Err(TokenError::Commitment { name: name("c1") }));
    assert_ne!(token.sum(), house.made.token.sum());
    // Written in other words it is another token: the sum is that of the text.
    let spaced = Token::parse(&text.replacen("epoch = 1", "epoch  = 1", 1)).unwrap();
    assert_ne!(spaced.sum(), house.made.token.sum());
}
