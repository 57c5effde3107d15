//! A page put together piece by piece; text is escaped, markup is only ours.

use std::fmt::Write as _;

/// An HTML document in the making.
pub(super) struct Page(String);

impl Page {
    pub(super) fn new(title: &str, style: &str) -> Self {
        let mut page = Self(String::new());
        page.0
            .push_str("<!doctype html>\n<html lang=\"en\">\n<head>\n<meta charset=\"utf-8\">\n");
        page.0.push_str(
            "<meta http-equiv=\"Content-Security-Policy\" \
             content=\"default-src 'none'; style-src 'unsafe-inline'\">\n",
        );
        page.element("title", title);
        writeln!(page.0, "<style>\n{style}</style>\n</head>\n<body>")
            .expect("writing to a String succeeds");
        page.element("h1", title);
        page
    }

    /// An element with text in it.
    pub(super) fn element(&mut self, name: &'static str, text: &str) {
        writeln!(self.0, "<{name}>{}</{name}>", escape(text))
            .expect("writing to a String succeeds");
    }

    /// An element with text in it; the class is for its look.
    pub(super) fn classed(&mut self, name: &'static str, class: &'static str, text: &str) {
        writeln!(
            self.0,
            "<{name} class=\"{class}\">{}</{name}>",
            escape(text)
        )
        .expect("writing to a String succeeds");
    }

    /// A number and what it counts.
    pub(super) fn tile(&mut self, class: &'static str, number: &str, label: &str) {
        writeln!(
            self.0,
            "<div class=\"tile {class}\"><b>{}</b> {}</div>",
            escape(number),
            escape(label)
        )
        .expect("writing to a String succeeds");
    }

    /// Begins something that is folded away unless it is open; `</details>` ends it.
    pub(super) fn fold(&mut self, class: &'static str, title: &str, is_open: bool) {
        let open = if is_open { " open" } else { "" };
        writeln!(
            self.0,
            "<details class=\"{class}\"{open}><summary>{}</summary>",
            escape(title)
        )
        .expect("writing to a String succeeds");
    }

    /// Markup of our own.
    pub(super) fn markup(&mut self, markup: &'static str) {
        self.0.push_str(markup);
        self.0.push('\n');
    }

    /// A row of a table; the class is for its look.
    pub(super) fn row(&mut self, class: &'static str, cells: &[&str]) {
        write!(self.0, "<tr class=\"{class}\">").expect("writing to a String succeeds");
        for cell in cells {
            // Lines of ours: those of a container were escaped when they were recorded.
            let lines: Vec<String> = cell.split('\n').map(escape).collect();
            let text = lines.join("<br>");
            write!(self.0, "<td>{text}</td>").expect("writing to a String succeeds");
        }
        self.0.push_str("</tr>\n");
    }

    pub(super) fn finish(mut self) -> String {
        self.0.push_str("</body>\n</html>\n");
        self.0
    }
}

/// Text that cannot become markup, and does not change how the text around it is read.
fn escape(text: &str) -> String {
    let mut escaped = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => escaped.push_str("&amp;"),
            '<' => escaped.push_str("&lt;"),
            '>' => escaped.push_str("&gt;"),
            '"' => escaped.push_str("&quot;"),
            '\'' => escaped.push_str("&#39;"),
            // Directions, joiners, and other marks that are not seen (Unicode, "Trojan Source").
            '\u{200b}'..='\u{200f}'
            | '\u{202a}'..='\u{202e}'
            | '\u{2060}'..='\u{206f}'
            | '\u{061c}'
            | '\u{feff}' => escaped.extend(character.escape_unicode()),
            control if control.is_control() => escaped.extend(control.escape_unicode()),
            other => escaped.push(other),
        }
    }
    escaped
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn text_that_hides_or_reorders_is_shown() {
        assert_eq!(escape("a\u{202e}gpj.exe"), "a\\u{202e}gpj.exe");
        assert_eq!(escape("a\u{200b}b\n"), "a\\u{200b}b\\u{a}");
    }

    proptest! {
        #[test]
        fn no_text_becomes_markup(text: String) {
            let escaped = escape(&text);
            prop_assert!(!escaped.contains(['<', '>', '"', '\'']));
            prop_assert!(!escaped.chars().any(char::is_control));
        }
    }
}
