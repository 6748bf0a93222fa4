//! Texts of others, put where HTML and SVG are read.

/// A text as it may stand between tags and within a quoted attribute, in HTML and in XML.
///
/// Beside what is markup, left out is what XML cannot have, and what turns the direction of the
/// text around it: an amount must not be read backwards because a name stands before it.
pub(super) fn escaped(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for character in text.chars() {
        match character {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            // `]]>` ends a section in XML.
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            '`' => out.push_str("&#96;"),
            other if is_dropped(other) => {}
            other => out.push(other),
        }
    }
    out
}

fn is_dropped(character: char) -> bool {
    matches!(
        character,
        '\u{200e}'
            | '\u{200f}'
            | '\u{61c}'
            | '\u{202a}'..='\u{202e}'
            | '\u{2066}'..='\u{2069}'
            | '\u{fffe}'
            | '\u{ffff}'
    ) || character.is_control()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_of_a_text_is_markup() {
        let text = "<script>alert(\"1\")</script> ]]> ' ` & \u{202e}evil\u{202c}\u{0}\n\u{85}";
        assert_eq!(
            escaped(text),
            "&lt;script&gt;alert(&quot;1&quot;)&lt;/script&gt; ]]&gt; &#39; &#96; &amp; evil"
        );
        assert_eq!(
            escaped("Café à la crème 咖啡 קפה"),
            "Café à la crème 咖啡 קפה"
        );
    }
}
