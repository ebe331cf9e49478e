use bytes::BytesMut;
use proptest::prelude::*;

use super::*;

const LIMITS: DataLimits = DataLimits { size: 1 << 20, line_length: 1000, bare_line_ends: BareLineEnds::Refuse };

/// Reads `input` cut in pieces; gives the result and what was left over.
fn read_in_pieces(
    input: &[u8],
    sizes: &[usize],
    limits: DataLimits,
) -> (Option<Result<Content, ContentError>>, Vec<u8>) {
    let (mut reader, mut buffer, mut rest) = (DataReader::new(limits), BytesMut::new(), input);
    let mut sizes = sizes.iter().copied().cycle();
    loop {
        match reader.read(&mut buffer) {
            DataStep::Done(result) => {
                buffer.extend_from_slice(rest);
                return (Some(result), buffer.to_vec());
            }
            DataStep::Absurd => return (None, Vec::new()),
            DataStep::More if rest.is_empty() => return (None, buffer.to_vec()),
            DataStep::More => {
                let (piece, after) = rest.split_at(sizes.next().unwrap_or(1).clamp(1, rest.len()));
                buffer.extend_from_slice(piece);
                rest = after;
            }
        }
    }
}

fn content_of(input: &[u8]) -> Result<Content, ContentError> {
    let (result, rest) = read_in_pieces(input, &[usize::MAX], LIMITS);
    assert_eq!(rest, b"", "{:?}", String::from_utf8_lossy(input));
    result.expect("no end found")
}

fn stuffed(content: &[u8]) -> Vec<u8> {
    let mut wire = Vec::new();
    for line in content.split_inclusive(|byte| *byte == b'\n') {
        if line.starts_with(b".") {
            wire.push(b'.');
        }
        wire.extend_from_slice(line);
    }
    wire.extend_from_slice(b".\r\n");
    wire
}

#[test]
fn the_final_dot_ends_the_content_and_what_follows_stays() {
    let (result, rest) = read_in_pieces(b"A: b\r\n\r\nhello\r\n.\r\nMAIL FROM:<>\r\n", &[3], LIMITS);
    let content = result.unwrap().unwrap();
    assert_eq!(&content.octets[..], b"A: b\r\n\r\nhello\r\n");
    assert_eq!(content.header_length, 8);
    assert_eq!(content.longest_line, 7);
    assert!(!content.has_dot_lines && !content.eight_bit);
    assert_eq!(rest, b"MAIL FROM:<>\r\n");
    assert_eq!(&content_of(b".\r\n").unwrap().octets[..], b"");
}

#[test]
fn dots_of_transparency_are_taken_off_in_place() {
    let content = content_of(b"..\r\n...\r\n.x\r\na..b\r\n..c\r\n.\r\n").unwrap();
    assert_eq!(&content.octets[..], b".\r\n..\r\nx\r\na..b\r\n.c\r\n");
    assert!(content.has_dot_lines);
    assert!(!content_of(b".x\r\n.\r\n").unwrap().has_dot_lines);
}

#[test]
fn smuggled_ends_of_data_never_end_it() {
    // The sequences of the SMTP smuggling disclosures of 2023 (CVE-2023-51764 and its kin).
    for end in [&b"\n.\n"[..], b"\n.\r\n", b"\r.\r", b"\r\n.\n", b"\r\n.\r", b"\r.\r\n", b"\n.\r", b"\r\n\0.\r\n"] {
        let input = [b"A: b\r\n\r\nx", end, b"MAIL FROM:<evil@example.com>\r\n.\r\nQUIT\r\n"].concat();
        let (result, rest) = read_in_pieces(&input, &[1], LIMITS);
        assert!(
            matches!(result, Some(Err(ContentError::BareLineEnd { .. } | ContentError::Nul { .. }))),
            "{end:?}: {result:?}"
        );
        assert_eq!(rest, b"QUIT\r\n");
        let repair = DataLimits { bare_line_ends: BareLineEnds::Repair, ..LIMITS };
        let (result, rest) = read_in_pieces(&input, &[2], repair);
        assert_eq!(rest, b"QUIT\r\n");
        if let Some(Ok(content)) = result {
            let again = stuffed(&content.octets);
            let (second, rest) = read_in_pieces(&again, &[5], LIMITS);
            assert_eq!(second, Some(Ok(content)), "what is passed on is one message to a strict server");
            assert_eq!(rest, b"");
        }
    }
}

#[test]
fn bare_line_ends_are_repaired_by_policy() {
    let repair = DataLimits { bare_line_ends: BareLineEnds::Repair, ..LIMITS };
    let (result, _) = read_in_pieces(b"A: b\n\nx\ry\n.\nz\r\n.\r\n", &[4], repair);
    let content = result.unwrap().unwrap();
    assert_eq!(&content.octets[..], b"A: b\r\n\r\nx\r\ny\r\n.\r\nz\r\n");
    assert!(content.has_dot_lines);
}

#[test]
fn lines_nul_and_eight_bit_are_noticed() {
    let long = [vec![b'a'; 999], b"\r\n.\r\n".to_vec()].concat();
    assert_eq!(content_of(&long), Err(ContentError::LineTooLong { line: 1, length: 1001, limit: 1000 }));
    let stuffed_long = [b"..".to_vec(), vec![b'a'; 997], b"\r\n.\r\n".to_vec()].concat();
    assert_eq!(content_of(&stuffed_long).unwrap().longest_line, 1000);
    assert_eq!(content_of(b"a\0b\r\n.\r\n"), Err(ContentError::Nul { position: 1 }));
    assert!(content_of("ä\r\n.\r\n".as_bytes()).unwrap().eight_bit);
}

#[test]
fn too_much_is_swallowed_refused_and_in_the_end_given_up() {
    let small = DataLimits { size: 100, ..LIMITS };
    let big = [b"abc\r\n".repeat(1000), b".\r\nQUIT\r\n".to_vec()].concat();
    for piece in [1, 7, 64, 100_000] {
        let (result, rest) = read_in_pieces(&big, &[piece], small);
        assert_eq!(result, Some(Err(ContentError::TooLarge { limit: 100 })), "pieces of {piece}");
        assert_eq!(rest, b"QUIT\r\n");
    }
    let endless = vec![b'a'; usize::try_from(small.swallowed()).unwrap() + 2_000_000];
    assert!(matches!(read_in_pieces(&endless, &[1 << 20], small), (None, rest) if rest.is_empty()));
    // Exactly the limit, with dots of transparency that do not count.
    let exact = b".bcd\r\n..\r\n".repeat(10);
    let wire = stuffed(&exact);
    assert_eq!(read_in_pieces(&wire, &[9], small).0.unwrap().unwrap().octets.len(), 100);
    let over = stuffed(&[exact, b"x\r\n".to_vec()].concat());
    assert_eq!(read_in_pieces(&over, &[9], small).0, Some(Err(ContentError::TooLarge { limit: 100 })));
}

#[test]
fn a_reader_that_may_not_keep_swallows_and_says_so() {
    let mut reader = DataReader::new(LIMITS);
    let mut buffer = BytesMut::from(&b"abc\r\n"[..]);
    assert!(matches!(reader.read(&mut buffer), DataStep::More));
    reader.stop_keeping();
    assert!(matches!(reader.read(&mut buffer), DataStep::More));
    buffer.extend_from_slice(b".\r\n");
    assert!(matches!(reader.read(&mut buffer), DataStep::Done(Err(ContentError::NoMemory))));
}

#[test]
fn a_swallowed_message_does_not_end_at_what_looks_like_its_first_line() {
    let small = DataLimits { size: 10, ..LIMITS };
    let (result, rest) = read_in_pieces(b"aaaaaaaaaaaaaaaaaaaaaaaa.\r\nbbb\r\n.\r\n", &[25, 1], small);
    assert_eq!(result, Some(Err(ContentError::TooLarge { limit: 10 })));
    assert_eq!(rest, b"");
}

#[test]
fn chunks_are_joined_and_checked_at_the_end() {
    let mut reader = ChunkReader::new(LIMITS);
    let mut buffer = BytesMut::from(&b"A: b\r\n\r"[..]);
    assert!(reader.begin(7));
    assert_eq!(reader.read(&mut buffer), ChunkStep::Done);
    assert!(reader.begin(8));
    buffer.extend_from_slice(b"\n.\r\nno");
    assert_eq!(reader.read(&mut buffer), ChunkStep::More);
    buffer.extend_from_slice(b" eQUIT\r\n");
    assert_eq!(reader.read(&mut buffer), ChunkStep::Done);
    assert_eq!(&buffer[..], b"QUIT\r\n");
    assert!(reader.begin(0));
    assert_eq!(reader.read(&mut buffer), ChunkStep::Done);
    let content = reader.finish().unwrap();
    assert_eq!(&content.octets[..], b"A: b\r\n\r\n.\r\nno e\r\n");
    assert!(content.has_dot_lines);
    assert_eq!(content.header_length, 8);
}

#[test]
fn chunks_are_bounded() {
    let small = DataLimits { size: 10, ..LIMITS };
    let mut reader = ChunkReader::new(small);
    assert!(reader.begin(11));
    let mut buffer = BytesMut::from(&b"0123456789"[..]);
    assert_eq!(reader.read(&mut buffer), ChunkStep::More);
    assert!(buffer.is_empty());
    buffer.extend_from_slice(b"0NOOP");
    assert_eq!(reader.read(&mut buffer), ChunkStep::Done);
    assert_eq!(&buffer[..], b"NOOP");
    assert_eq!(reader.finish(), Err(ContentError::TooLarge { limit: 10 }));
    assert!(!ChunkReader::new(small).begin(u64::MAX));
}

#[test]
fn a_field_is_cut_out_of_the_header() {
    let mut content = content_of(b"A: b\r\nX-Stream: s\r\nC: d\r\n\r\nbody\r\n.\r\n").unwrap();
    content.cut(6..19);
    assert_eq!(&content.octets[..], b"A: b\r\nC: d\r\n\r\nbody\r\n");
    assert_eq!(content.header_length, 14);
}

proptest! {
    #[test]
    fn the_result_is_the_same_however_the_octets_are_cut(
        body in "[.a\r\n]{0,60}",
        sizes in proptest::collection::vec(1usize..9, 1..8),
        repair in any::<bool>(),
        size in prop_oneof![Just(1u64 << 20), 5u64..40],
    ) {
        let input = format!("{body}\r\n.\r\nQUIT\r\n");
        let bare_line_ends = if repair { BareLineEnds::Repair } else { BareLineEnds::Refuse };
        let limits = DataLimits { size, bare_line_ends, ..LIMITS };
        let whole = read_in_pieces(input.as_bytes(), &[usize::MAX], limits);
        let cut = read_in_pieces(input.as_bytes(), &sizes, limits);
        prop_assert_eq!(whole, cut);
    }

    #[test]
    fn what_is_stuffed_is_read_back_equal(lines in proptest::collection::vec("[.a-c]{0,5}", 0..20), piece in 1usize..30) {
        let content: Vec<u8> = lines.iter().flat_map(|line| [line.as_bytes(), b"\r\n"].concat()).collect();
        let wire = stuffed(&content);
        let (result, rest) = read_in_pieces(&wire, &[piece], LIMITS);
        let read = result.unwrap().unwrap();
        prop_assert_eq!(&read.octets[..], &content[..]);
        prop_assert_eq!(read.has_dot_lines, lines.iter().any(|line| line.starts_with('.')));
        prop_assert!(rest.is_empty());
    }

    #[test]
    fn what_is_accepted_has_no_bare_line_end(body in proptest::collection::vec(prop_oneof![Just(b'\r'), Just(b'\n'), Just(b'.'), any::<u8>()], 0..80), repair in any::<bool>()) {
        let input = [&body[..], b"\r\n.\r\n"].concat();
        let bare_line_ends = if repair { BareLineEnds::Repair } else { BareLineEnds::Refuse };
        if let (Some(Ok(content)), _) = read_in_pieces(&input, &[13], DataLimits { bare_line_ends, ..LIMITS }) {
            let text = &content.octets[..];
            for (position, byte) in text.iter().enumerate() {
                match byte {
                    b'\r' => prop_assert_eq!(text.get(position + 1), Some(&b'\n')),
                    b'\n' => prop_assert!(position > 0 && text[position - 1] == b'\r'),
                    0 => prop_assert!(false, "NUL"),
                    _ => {}
                }
            }
        }
    }
}
