//! CSV records out of octets, one bad line never costing the others.
//!
//! RFC 4180 lets a quoted field go over several lines, so one forgotten quote would swallow the rest of a
//! file. Here a record is a handful of lines at most; when the quotes are still open then, its first line alone is
//! bad, and reading goes on with the second.

use std::collections::VecDeque;
use std::io::{self, BufRead};

use csv_core::{ReadRecordResult, Reader};
use smallvec::SmallVec;

/// Longest line; a list of suppressed addresses has nothing like it.
const LONGEST_LINE: usize = 64 * 1024;
/// Lines that one record may have.
const MOST_LINES: usize = 8;
/// Fields of a record.
const MOST_FIELDS: usize = 64;

/// The fields of a record, in one piece.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fields {
    text: Box<str>,
    /// Where each ends.
    ends: SmallVec<[u32; 8]>,
}

impl Fields {
    /// A field without white space around it.
    pub(super) fn get(&self, number: usize) -> Option<&str> {
        let start = number.checked_sub(1).map_or(Some(0), |before| self.ends.get(before).copied())?;
        let end = self.ends.get(number)?;
        self.text.get(start as usize..*end as usize).map(str::trim)
    }

    /// All fields.
    pub(super) fn to_strings(&self) -> Vec<String> {
        (0..self.ends.len()).filter_map(|number| self.get(number)).map(str::to_owned).collect()
    }
}

/// One record, or why there is none.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Line {
    /// Number of its first line, from 1.
    pub(super) number: u64,
    /// Its fields, or what is wrong.
    pub(super) fields: Result<Fields, &'static str>,
    /// Its lines after the first: when it is of no use, they may be records of their own.
    pub(super) more: Vec<Vec<u8>>,
}

/// Reads records.
pub(super) struct Lines<R> {
    input: R,
    /// Lines that were read ahead.
    ahead: VecDeque<Vec<u8>>,
    /// Number of the next line to give out.
    number: u64,
    /// Records of lines that held more than one.
    ready: VecDeque<Line>,
    /// Octets read.
    octets: u64,
    /// Made once: making one costs more than reading a line with it.
    reader: Reader,
    output: Vec<u8>,
}

impl<R: BufRead> Lines<R> {
    pub(super) fn new(input: R) -> Self {
        Self {
            input,
            ahead: VecDeque::new(),
            number: 1,
            ready: VecDeque::new(),
            octets: 0,
            reader: Reader::new(),
            output: Vec::new(),
        }
    }

    /// Octets read so far.
    pub(super) fn octets(&self) -> u64 {
        self.octets
    }

    /// The next record that is not empty.
    pub(super) fn next(&mut self) -> io::Result<Option<Line>> {
        loop {
            if let Some(line) = self.ready.pop_front() {
                return Ok(Some(line));
            }
            let Some(first) = self.line()? else { return Ok(None) };
            let number = self.number;
            self.number += 1;
            if first.len() > LONGEST_LINE {
                return Ok(Some(Line { number, fields: Err("the line is longer than 64 KiB"), more: Vec::new() }));
            }
            if is_closed(&first) {
                self.parse(number, &first);
                continue;
            }
            let mut record = first;
            let mut taken = Vec::new();
            while taken.len() + 1 < MOST_LINES && !is_closed(&record) && record.len() <= LONGEST_LINE {
                let Some(next) = self.line()? else { break };
                record.extend_from_slice(&next);
                taken.push(next);
            }
            if is_closed(&record) && record.len() <= LONGEST_LINE {
                self.number += taken.len() as u64;
                self.parse(number, &record);
                if let Some(first) = self.ready.front_mut() {
                    first.more = taken;
                }
            } else {
                taken.into_iter().rev().for_each(|line| self.ahead.push_front(line));
                return Ok(Some(Line { number, fields: Err("a quote is opened and not closed"), more: Vec::new() }));
            }
        }
    }

    /// Gives lines back, to be read as records of their own; `line` came last.
    pub(super) fn reread(&mut self, line: Line) {
        self.ready.clear();
        self.number = line.number + 1;
        line.more.into_iter().rev().for_each(|line| self.ahead.push_front(line));
    }

    /// One line with its end; of one that is too long, the beginning.
    fn line(&mut self) -> io::Result<Option<Vec<u8>>> {
        if let Some(line) = self.ahead.pop_front() {
            return Ok(Some(line));
        }
        let mut line = Vec::new();
        loop {
            let octets = match self.input.fill_buf() {
                Ok(octets) => octets,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
                Err(error) => return Err(error),
            };
            if octets.is_empty() {
                if line.is_empty() {
                    return Ok(None);
                }
                // The last line of a file may lack its end.
                line.push(b'\n');
                return Ok(Some(line));
            }
            let end = memchr::memchr(b'\n', octets).map(|end| end + 1);
            let take = end.unwrap_or(octets.len());
            let room = (LONGEST_LINE + 1).saturating_sub(line.len());
            let mut octets = octets.get(..take.min(room)).unwrap_or_default();
            if self.octets == 0 {
                // The mark that some programs put before UTF-8.
                octets = octets.strip_prefix(b"\xef\xbb\xbf").unwrap_or(octets);
            }
            line.extend_from_slice(octets);
            self.input.consume(take);
            self.octets += take as u64;
            if end.is_some() {
                return Ok(Some(line));
            }
        }
    }

    /// Takes a text with closed quotes apart.
    fn parse(&mut self, number: u64, text: &[u8]) {
        let mut output = std::mem::take(&mut self.output);
        output.resize(text.len() + 1, 0);
        let mut ends = [0; MOST_FIELDS];
        self.reader.reset();
        let mut rest = text;
        while !rest.is_empty() {
            let (result, read, written, fields) = self.reader.read_record(rest, &mut output, &mut ends);
            rest = rest.get(read..).unwrap_or_default();
            match result {
                ReadRecordResult::Record => self.push(number, &output[..written], &ends[..fields]),
                ReadRecordResult::OutputFull | ReadRecordResult::OutputEndsFull => {
                    self.ready.push_back(Line {
                        number,
                        fields: Err("the line has more than 64 fields"),
                        more: Vec::new(),
                    });
                    break;
                }
                ReadRecordResult::InputEmpty | ReadRecordResult::End => break,
            }
        }
        self.output = output;
    }

    fn push(&mut self, number: u64, output: &[u8], ends: &[usize]) {
        let Ok(text) = std::str::from_utf8(output) else {
            self.ready.push_back(Line { number, fields: Err("the line is not UTF-8"), more: Vec::new() });
            return;
        };
        if text.trim().is_empty() {
            return;
        }
        let fields = Fields { text: text.into(), ends: ends.iter().map(|end| *end as u32).collect() };
        self.ready.push_back(Line { number, fields: Ok(fields), more: Vec::new() });
    }
}

/// Whether every quote that is opened is closed.
fn is_closed(text: &[u8]) -> bool {
    memchr::memchr_iter(b'"', text).count().is_multiple_of(2)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn read(text: &[u8]) -> Vec<(u64, Result<Vec<String>, &'static str>)> {
        let mut lines = Lines::new(text);
        std::iter::from_fn(|| lines.next().unwrap())
            .map(|line| (line.number, line.fields.map(|fields| fields.to_strings())))
            .collect()
    }

    fn fields(fields: &[&str]) -> Result<Vec<String>, &'static str> {
        Ok(fields.iter().map(|field| (*field).to_owned()).collect())
    }

    #[test]
    fn quotes_commas_and_line_ends_are_read_as_rfc_4180_has_them() {
        let text = b"a@x,1\r\n\"b,c\",\"say \"\"hi\"\"\"\n\n\"two\nlines\",2\n,\nlast@x,9";
        assert_eq!(
            read(text),
            [
                (1, fields(&["a@x", "1"])),
                (2, fields(&["b,c", "say \"hi\""])),
                (4, fields(&["two\nlines", "2"])),
                (7, fields(&["last@x", "9"])),
            ]
        );
    }

    #[test]
    fn a_quote_that_is_never_closed_costs_its_line_and_no_other() {
        let mut text = b"ok@x,1\n\"open,2\n".to_vec();
        (0..50).for_each(|number| text.extend_from_slice(format!("n{number}@x,3\n").as_bytes()));
        let lines = read(&text);
        assert_eq!(lines.len(), 52);
        assert_eq!(lines[1], (2, Err("a quote is opened and not closed")));
        assert_eq!(lines[2], (3, fields(&["n0@x", "3"])));
        assert_eq!(lines[51].0, 52);
    }

    #[test]
    fn what_is_too_long_or_not_utf_8_costs_its_line_and_no_other() {
        let mut text = vec![b'x'; 1 << 20];
        text.extend_from_slice(b"\na@x,1\n\xff\xfe,2\nb@x,3\n");
        text.extend_from_slice(&b",".repeat(100));
        text.extend_from_slice(b"\nc@x\n");
        let lines = read(&text);
        assert_eq!(lines[0], (1, Err("the line is longer than 64 KiB")));
        assert_eq!(lines[1], (2, fields(&["a@x", "1"])));
        assert_eq!(lines[2], (3, Err("the line is not UTF-8")));
        assert_eq!(lines[3], (4, fields(&["b@x", "3"])));
        assert_eq!(lines[4], (5, Err("the line has more than 64 fields")));
        assert_eq!(lines[5], (6, fields(&["c@x"])));
    }

    proptest! {
        /// The `csv` crate reads what is well formed the same way.
        #[test]
        fn well_formed_files_read_as_the_csv_crate_reads_them(
            rows in proptest::collection::vec(proptest::collection::vec("[a-z@\", ]{0,8}", 1..5), 0..8)
        ) {
            let mut writer = csv::WriterBuilder::new().flexible(true).from_writer(Vec::new());
            for row in &rows { writer.write_record(row).unwrap(); }
            let text = writer.into_inner().unwrap();
            let ours: Vec<Vec<String>> = read(&text).into_iter().map(|(_, fields)| fields.unwrap()).collect();
            let theirs: Vec<Vec<String>> = csv::ReaderBuilder::new().flexible(true).has_headers(false).from_reader(&text[..])
                .into_records()
                .map(|record| record.unwrap().iter().map(|field| field.trim().to_owned()).collect::<Vec<_>>())
                .filter(|fields: &Vec<String>| fields.iter().any(|field| !field.is_empty()))
                .collect();
            prop_assert_eq!(ours, theirs);
        }

        #[test]
        fn no_octets_make_it_panic_or_lose_a_line_behind_them(octets in proptest::collection::vec(any::<u8>(), 0..300)) {
            let mut text = octets.clone();
            text.extend_from_slice(b"\n\n\n\n\n\n\n\n\nlast@example.org,end\n");
            prop_assert!(read(&text).iter().any(|(_, fields)|
                fields.as_ref().is_ok_and(|fields| fields.last().is_some_and(|field| field.contains("end")))));
        }
    }
}
