//! Text of an exact width, bars, and times.

use ratatui::style::Style;
use ratatui::text::{Line, Span};
use unicode_width::{UnicodeWidthChar as _, UnicodeWidthStr as _};

use super::look::Look;

/// Text cut or filled up to exactly `width` columns.
pub fn fit(text: &str, width: usize, look: &Look) -> String {
    let mut fitted = cut(text, width, look);
    fitted.push_str(&" ".repeat(width.saturating_sub(fitted.width())));
    fitted
}

/// The same, filled up at the left.
pub fn fit_right(text: &str, width: usize, look: &Look) -> String {
    let fitted = cut(text, width, look);
    format!("{}{fitted}", " ".repeat(width.saturating_sub(fitted.width())))
}

/// Text of at most `width` columns, with a sign where something was cut.
pub fn cut(text: &str, width: usize, look: &Look) -> String {
    if text.width() <= width {
        return text.to_owned();
    }
    let room = width.saturating_sub(look.signs.cut.width());
    let (mut kept, mut used) = (String::new(), 0);
    for c in text.chars() {
        let columns = c.width().unwrap_or(0);
        if used + columns > room {
            break;
        }
        used += columns;
        kept.push(c);
    }
    if width >= look.signs.cut.width() {
        kept.push_str(look.signs.cut);
    }
    kept
}

/// Text on as many lines of at most `width` columns as it takes, broken between words.
pub fn wrap(text: &str, width: usize, look: &Look) -> Vec<String> {
    let mut lines = Vec::new();
    for paragraph in text.split('\n') {
        let mut line = String::new();
        for word in paragraph.split_whitespace() {
            if !line.is_empty() && line.width() + 1 + word.width() > width {
                lines.push(std::mem::take(&mut line));
            }
            if !line.is_empty() {
                line.push(' ');
            }
            line.push_str(&cut(word, width, look));
        }
        lines.push(line);
    }
    lines
}

/// A bar of `width` columns, `share` of it done.
pub fn bar(share: f64, width: usize, style: Style, look: &Look) -> Vec<Span<'static>> {
    let [full, end, rest] = look.signs.bar;
    let halves = (share.clamp(0.0, 1.0) * width as f64 * 2.0).round() as usize;
    let (whole, half) = (halves / 2, halves % 2);
    let mut done = full.repeat(whole);
    if half > 0 {
        done.push_str(end);
    }
    vec![Span::styled(done, style), Span::styled(rest.repeat(width - whole - half), look.dim())]
}

/// Facts to stand in a line, each of one or more spans.
pub type Parts = Vec<Vec<Span<'static>>>;

/// Facts in one line with a dot between each two; what does not fit at the end is left out.
pub fn facts(parts: Parts, width: usize, look: &Look) -> Line<'static> {
    facts_wrapped(parts, width, look).into_iter().next().unwrap_or_default()
}

/// The same on as many lines as it takes.
pub fn facts_wrapped(parts: Parts, width: usize, look: &Look) -> Vec<Line<'static>> {
    let mut lines: Vec<Line> = Vec::new();
    for part in parts.into_iter().filter(|part| !part.is_empty()) {
        let columns: usize = part.iter().map(Span::width).sum();
        match lines.last_mut() {
            Some(line) if line.width() + 3 + columns <= width => {
                line.push_span(Span::styled(format!(" {} ", look.signs.dot), look.dim()));
                line.extend(part);
            }
            _ => lines.push(Line::from(part)),
        }
    }
    lines
}

/// A time of day in the look's zone; with the day where it was another one than at `now_ms`.
pub fn clock(ms: u64, now_ms: u64, look: &Look) -> String {
    let zoned = |ms: u64| {
        let stamp = jiff::Timestamp::from_millisecond(i64::try_from(ms).ok()?).ok()?;
        Some(stamp.to_zoned_datetime(look.zone.clone()))
    };
    let (Some(time), Some(now)) = (zoned(ms), zoned(now_ms)) else { return "?".to_owned() };
    let form = if time.date() == now.date() { "%H:%M:%S" } else { "%m-%d %H:%M" };
    time.strftime(form).to_string()
}

/// A time to come, without seconds.
pub fn clock_ahead(ms: u64, now_ms: u64, look: &Look) -> String {
    let time = clock(ms, now_ms, look);
    if time.contains(' ') {
        time
    } else {
        time.rsplit_once(':').map_or(time.clone(), |(time, _)| time.to_owned())
    }
}

/// Bytes in use and all, in GB of 10^9 bytes as elsewhere: `12/80 GB`.
pub fn memory((used, all): (u64, u64)) -> String {
    let gigabytes = |bytes: u64| bytes as f64 / 1e9;
    let digits = usize::from(all < 10_000_000_000);
    format!("{:.digits$}/{:.digits$} GB", gigabytes(used), gigabytes(all))
}

#[cfg(test)]
mod tests {
    use jiff::tz::TimeZone;

    use super::*;

    fn look() -> Look {
        Look::new(true, true, TimeZone::UTC)
    }

    #[test]
    fn text_has_exactly_the_width_it_should_have() {
        assert_eq!(fit("mti-net", 10, &look()), "mti-net   ");
        assert_eq!(fit("densenet121-reg", 8, &look()), "densene…");
        assert_eq!(fit_right("3", 4, &look()), "   3");
        // A wide character never sticks out by half.
        assert_eq!(fit("肝臓肝臓", 6, &look()).width(), 6);
        assert_eq!(cut("ab", 0, &look()), "");
    }

    #[test]
    fn bars_are_as_wide_as_asked_for() {
        for share in [-1.0, 0.0, 0.33, 0.5, 0.999, 1.0, 7.0] {
            let width: usize = bar(share, 13, Style::new(), &look()).iter().map(Span::width).sum();
            assert_eq!(width, 13, "{share}");
        }
    }

    #[test]
    fn facts_that_do_not_fit_are_left_out_whole() {
        let part = |text: &'static str| vec![Span::raw(text)];
        let line = facts(vec![part("step 5"), vec![], part("12 ms"), part("lr 0.001")], 16, &look());
        assert_eq!(line.to_string(), "step 5 · 12 ms");
    }

    #[test]
    fn text_wraps_between_words() {
        assert_eq!(wrap("needs 2 cpu slots\nnow", 9, &look()), ["needs 2", "cpu slots", "now"]);
    }

    #[test]
    fn times_say_the_day_where_it_is_another() {
        let noon = 1_700_049_600_000;
        assert_eq!(clock(noon, noon, &look()), "12:00:00");
        assert_eq!(clock(noon, noon + 86_400_000, &look()), "11-15 12:00");
        assert_eq!(clock_ahead(noon, noon, &look()), "12:00");
    }
}
