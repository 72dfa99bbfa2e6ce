//! Panels with a title, and lists that scroll.

use ratatui::buffer::Buffer;
use ratatui::layout::Rect;
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Borders, Widget as _};

use super::look::Look;

/// Draws a panel's border with a title at its left and one at its right; the room inside.
pub fn panel(buffer: &mut Buffer, area: Rect, title: Line<'_>, right: Line<'_>, look: &Look) -> Rect {
    let mut block = Block::new()
        .borders(Borders::ALL)
        .border_set(look.signs.border)
        .border_style(look.dim())
        .title_top(padded(title));
    if right.width() > 0 {
        block = block.title_top(padded(right).right_aligned());
    }
    let inner = block.inner(area);
    block.render(area, buffer);
    inner
}

fn padded(title: Line<'_>) -> Line<'_> {
    let mut spans = vec![Span::raw(" ")];
    spans.extend(title.spans);
    spans.push(Span::raw(" "));
    Line::from(spans).style(title.style)
}

/// Writes lines below each other, as many as there is room for.
pub fn lines(buffer: &mut Buffer, area: Rect, lines: &[Line<'_>]) {
    for (row, line) in (area.y..area.bottom()).zip(lines) {
        buffer.set_line(area.x, row, line, area.width);
    }
}

/// The first of `len` rows to show, so that `selected` is among the `room` shown and as little as possible moves.
pub fn first_shown(before: usize, selected: usize, len: usize, room: usize) -> usize {
    let last_first = len.saturating_sub(room);
    if room == 0 {
        return 0;
    }
    before.clamp((selected + 1).saturating_sub(room), selected).min(last_first)
}

/// A scroll bar on a panel's right border, where not everything is shown.
pub fn scroll_bar(buffer: &mut Buffer, border: Rect, first: usize, room: usize, len: usize, look: &Look) {
    if len <= room || border.height <= 2 {
        return;
    }
    let track = usize::from(border.height - 2);
    let thumb = (room * track / len).clamp(1, track);
    let top = (first * (track - thumb)).div_ceil((len - room).max(1));
    for row in top..top + thumb {
        let y = border.y + 1 + row as u16;
        buffer.set_string(border.right() - 1, y, look.signs.thumb, look.accent());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_moves_only_when_the_selection_leaves_it() {
        assert_eq!(first_shown(0, 3, 100, 10), 0);
        assert_eq!(first_shown(0, 10, 100, 10), 1);
        assert_eq!(first_shown(50, 55, 100, 10), 50);
        assert_eq!(first_shown(50, 20, 100, 10), 20);
        assert_eq!(first_shown(95, 99, 100, 10), 90, "never a gap below the last row");
        assert_eq!((first_shown(3, 0, 0, 10), first_shown(3, 2, 5, 0)), (0, 0));
    }
}
