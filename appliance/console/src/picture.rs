//! QR codes in characters: two modules a cell, light on dark, so that a camera reads them off a screen.

use qrcode::{Color, EcLevel, QrCode};
use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::style::{Color as Ink, Style};

/// Light modules around the code; the norm wants four, and cameras are content with two.
const QUIET: usize = 2;

/// A QR code with its quiet edge.
#[derive(Debug, Clone)]
pub(crate) struct Picture {
    side: usize,
    light: Vec<bool>,
}

impl Picture {
    /// The code that says `text`; none when there is no code that large.
    pub(crate) fn of(text: &str) -> Option<Self> {
        let code = QrCode::with_error_correction_level(text.as_bytes(), EcLevel::L).ok()?;
        let inner = code.width();
        let side = inner + 2 * QUIET;
        let mut light = vec![true; side * side];
        for (at, color) in code.to_colors().into_iter().enumerate() {
            let (row, column) = (at / inner + QUIET, at % inner + QUIET);
            if let Some(module) = light.get_mut(row * side + column) {
                *module = color == Color::Light;
            }
        }
        Some(Self { side, light })
    }

    /// Columns and rows that it needs.
    pub(crate) fn size(&self) -> (u16, u16) {
        let side = u16::try_from(self.side).unwrap_or(u16::MAX);
        (side, side.div_ceil(2))
    }

    /// Draws it into the middle of `area`, if it fits: a part of a code is of no use.
    pub(crate) fn draw(&self, area: Rect, buffer: &mut Buffer) -> bool {
        let (columns, rows) = self.size();
        let area = area.intersection(buffer.area);
        if columns > area.width || rows > area.height {
            return false;
        }
        let (left, top) = (area.x + (area.width - columns) / 2, area.y + (area.height - rows) / 2);
        let style = Style::new().fg(Ink::White).bg(Ink::Black);
        for row in 0..rows {
            for column in 0..columns {
                let upper = self.is_light(usize::from(row) * 2, usize::from(column));
                let lower = self.is_light(usize::from(row) * 2 + 1, usize::from(column));
                let symbol = match (upper, lower) {
                    (true, true) => "\u{2588}",
                    (true, false) => "\u{2580}",
                    (false, true) => "\u{2584}",
                    (false, false) => " ",
                };
                if let Some(cell) = buffer.cell_mut((left + column, top + row)) {
                    cell.set_symbol(symbol).set_style(style);
                }
            }
        }
        true
    }

    fn is_light(&self, row: usize, column: usize) -> bool {
        self.light.get(row * self.side + column).copied().unwrap_or(false)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_code_is_drawn_whole_or_not_at_all() {
        let picture = Picture::of("0123456789ABCDEF").unwrap();
        let (columns, rows) = picture.size();
        assert_eq!((columns, rows), (25, 13));
        let mut buffer = Buffer::empty(Rect::new(0, 0, columns, rows));
        assert!(picture.draw(buffer.area, &mut buffer));
        assert_eq!(buffer[(0, 0)].symbol(), "\u{2588}");
        let mut small = Buffer::empty(Rect::new(0, 0, columns - 1, rows));
        assert!(!picture.draw(Rect::new(0, 0, 500, 500), &mut small));
        assert_eq!(small, Buffer::empty(small.area));
        assert!(Picture::of(&"x".repeat(5000)).is_none());
    }
}
