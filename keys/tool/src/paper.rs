//! A share as a sheet of paper: what it is, what it is good for, the words in four columns, and the words once more as a QR code.

use std::fmt::Write as _;

use jiff::Timestamp;
use postkeep_keys::{Held, Token, words};
use qrcode::{Color, EcLevel, QrCode};
use zeroize::Zeroizing;

const COLUMNS: usize = 4;
const WIDTH: usize = 16;
/// Light modules around the code, as the norm wants them on paper.
const QUIET: usize = 4;

/// The sheet of `held`, for a printer with letters of one width.
pub(crate) fn sheet(token: &Token, held: &Held, now: Timestamp) -> Zeroizing<String> {
    let shares = token.shares(held.purpose);
    let (threshold, count) = shares.map_or((0, 0), |shares| (shares.threshold, shares.holders.len()));
    let words = words::words(&held.share);
    let mut sheet = Zeroizing::new(String::with_capacity(16 << 10));
    let mut line = |text: &str| {
        let _ = writeln!(sheet, "{text}");
    };
    line("POSTKEEP: ONE SHARE OF A KEY");
    line("");
    line(&format!("of          {}, number {} of {count}", held.name, held.share.place));
    line(&format!("for         {} of the volume {}", held.purpose.name(), token.volume));
    line(&format!("key set     {} (shares of another one do not go with it)", token.epoch));
    line(&format!("printed     {now:.0}"));
    line("");
    line(&format!("With {threshold} such shares the box opens; with fewer nobody learns anything. Whoever holds this"));
    line("sheet holds the share: lock it away where the file with the key is not. Four letters tell a word.");
    line("");
    let rows = words.len().div_ceil(COLUMNS);
    for row in 0..rows {
        let cells = (0..COLUMNS)
            .filter_map(|column| words.get(column * rows + row).map(|word| (column * rows + row + 1, word)));
        let cells: Zeroizing<String> =
            Zeroizing::new(cells.map(|(number, word)| format!("{number:>3} {word:<WIDTH$}")).collect());
        line(cells.trim_end());
    }
    line("");
    line("To read it back:  postkeep-keys paper --token TOKEN --check -");
    line("To open with it:  postkeep-keys unseal --token TOKEN --paper - --name NAME --offer … --reason …");
    line("");
    let text = Zeroizing::new(words.join(" "));
    if let Ok(code) = QrCode::with_error_correction_level(text.as_bytes(), EcLevel::M) {
        for row in picture(&code) {
            line(&row);
        }
    }
    sheet
}

/// Two modules a letter, dark on light.
fn picture(code: &QrCode) -> Vec<String> {
    let (inner, colors) = (code.width(), code.to_colors());
    let side = inner + 2 * QUIET;
    let is_dark = |row: usize, column: usize| {
        let inside = row
            .checked_sub(QUIET)
            .zip(column.checked_sub(QUIET))
            .filter(|(row, column)| *row < inner && *column < inner);
        inside.is_some_and(|(row, column)| colors[row * inner + column] == Color::Dark)
    };
    let cell = |row, column| match (is_dark(row, column), is_dark(row + 1, column)) {
        (true, true) => '\u{2588}',
        (true, false) => '\u{2580}',
        (false, true) => '\u{2584}',
        (false, false) => ' ',
    };
    let rows = (0..side).step_by(2).map(|row| (0..side).map(|column| cell(row, column)).collect::<String>());
    rows.map(|row| row.trim_end().to_owned()).collect()
}
