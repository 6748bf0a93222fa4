//! A button to be paid by, as a piece of HTML and as a picture.
//!
//! Both are whole in themselves: no script, no style sheet, no font, no picture from elsewhere. They
//! are well-formed XML and HTML at once, so that a page of either kind can take them in. A page
//! themes the HTML by CSS variables (`--flashkit-accent`, `--flashkit-on-accent`,
//! `--flashkit-text`, `--flashkit-ground`, `--flashkit-radius`), or whoever makes it by
//! [`ButtonTheme`].

use qrcode::{Color, EcLevel, QrCode};
use serde::{Deserialize, Serialize};

use super::CheckoutError;
use super::escape::escaped;
use super::link::{PaymentLink, PaymentLinkState};
use crate::money::{Asset, Price};
use crate::receipts::{Label, Language, format_amount};

/// White modules around a QR code (ISO/IEC 18004).
const QUIET: usize = 4;
const MAX_RADIUS: u32 = 40;
/// Characters in a line of the picture.
const LINE: usize = 38;
const MAX_TITLE: usize = 100;

/// The colours and the shape of a button: `#rrggbb`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ButtonTheme {
    /// What is pressed.
    pub accent: String,
    /// The text upon it.
    pub on_accent: String,
    /// The text beside it.
    pub text: String,
    /// What lies behind all. A QR code is always black upon white: others are not read by all.
    pub ground: String,
    /// How round the corners are, in pixels: 0 to 40.
    pub radius_px: u32,
}

impl Default for ButtonTheme {
    fn default() -> Self {
        Self {
            accent: "#b45309".to_owned(),
            on_accent: "#ffffff".to_owned(),
            text: "#1f2937".to_owned(),
            ground: "#ffffff".to_owned(),
            radius_px: 8,
        }
    }
}

/// How a button looks and what it says.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct ButtonStyle {
    /// The language.
    pub language: Language,
    /// Who is paid; at most 100 characters.
    pub title: String,
    /// Its colours.
    pub theme: ButtonTheme,
}

/// A button.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct PaymentButton {
    /// A piece of HTML, to be put anywhere within `<body>`.
    pub html: String,
    /// A whole SVG picture with the same in it, for print and for pages that take pictures alone.
    pub svg: String,
}

/// What is written on a button; texts of others are escaped already.
struct Words {
    lang: &'static str,
    title: String,
    description: String,
    amount: String,
    action: String,
    /// For who cannot see it: all of the above in one.
    name: String,
    qr: String,
    /// Escaped; empty where nothing can be paid.
    uri: String,
}

/// Makes the button of a link. One that cannot be paid (any more) says so, and offers nothing to
/// pay by.
///
/// # Errors
/// `checkout.bad_style` for a colour that is not `#rrggbb`, a radius above 40 or a title of more
/// than 100 characters.
pub fn payment_button(
    link: &PaymentLink,
    style: &ButtonStyle,
) -> Result<PaymentButton, CheckoutError> {
    style.check()?;
    let words = Words::of(link, style);
    let code = link.qr_text().and_then(|text| code(&text));
    Ok(PaymentButton {
        html: html(&words, code.as_ref(), &style.theme),
        svg: svg(&words, code.as_ref(), &style.theme),
    })
}

impl ButtonStyle {
    fn check(&self) -> Result<(), CheckoutError> {
        let theme = &self.theme;
        let is_color = |text: &&String| {
            let digits = text.strip_prefix('#').unwrap_or_default();
            digits.len() == 6 && digits.bytes().all(|byte| byte.is_ascii_hexdigit())
        };
        let colors = [&theme.accent, &theme.on_accent, &theme.text, &theme.ground];
        if !colors.iter().all(is_color) {
            let reason = "a colour is # and 6 hex digits";
            return Err(CheckoutError::BadStyle { reason });
        }
        if theme.radius_px > MAX_RADIUS {
            let reason = "a radius is 0 to 40";
            return Err(CheckoutError::BadStyle { reason });
        }
        if self.title.chars().count() > MAX_TITLE {
            let reason = "a title is at most 100 characters";
            return Err(CheckoutError::BadStyle { reason });
        }
        Ok(())
    }
}

impl Words {
    fn of(link: &PaymentLink, style: &ButtonStyle) -> Self {
        let language = style.language;
        let amount = amount(link, language);
        let label = match link.state {
            PaymentLinkState::Payable => Label::Pay,
            PaymentLinkState::Paid => Label::Paid,
            PaymentLinkState::Processing => Label::Processing,
            PaymentLinkState::Expired => Label::Expired,
            PaymentLinkState::NotPayable => Label::NotPayable,
        };
        let action = label.text(language);
        let said = [action, &amount, &style.title, &link.description];
        let said: Vec<&str> = said.into_iter().filter(|text| !text.is_empty()).collect();
        Self {
            lang: language.code(),
            title: escaped(&style.title),
            description: escaped(&link.description),
            name: escaped(&said.join(", ")),
            amount: escaped(&amount),
            action: escaped(action),
            qr: escaped(Label::QrCode.text(language)),
            uri: escaped(link.uri.as_deref().unwrap_or_default()),
        }
    }
}

/// The price; behind it what is due in bitcoin, where that is something else.
fn amount(link: &PaymentLink, language: Language) -> String {
    let due = link.due_msat.filter(|due_msat| *due_msat > 0);
    let bitcoin = due.map(|due_msat| format_amount(language, Asset::Btc, due_msat));
    match (link.price, bitcoin) {
        (
            Some(Price::Fiat {
                currency,
                minor_units,
            }),
            bitcoin,
        ) => {
            let price = format_amount(language, Asset::Fiat(currency), minor_units);
            bitcoin.map_or(price.clone(), |bitcoin| format!("{price} ({bitcoin})"))
        }
        (_, Some(bitcoin)) => bitcoin,
        (Some(Price::Bitcoin { amount_msat }), None) => {
            format_amount(language, Asset::Btc, amount_msat)
        }
        (None, None) if link.state == PaymentLinkState::Payable => {
            Label::AnyAmount.text(language).to_owned()
        }
        (None, None) => String::new(),
    }
}

/// A QR code: its size with the white around it, and its black modules as a path.
struct Code {
    size: usize,
    path: String,
}

/// `None` for a text that no code has room for.
fn code(text: &str) -> Option<Code> {
    let code = QrCode::with_error_correction_level(text, EcLevel::M)
        .or_else(|_| QrCode::with_error_correction_level(text, EcLevel::L))
        .ok()?;
    let width = code.width();
    let colors = code.into_colors();
    let mut path = String::new();
    for (y, row) in colors.chunks(width).enumerate() {
        let mut x = 0;
        for run in row.chunk_by(|a, b| a == b) {
            if run.first() == Some(&Color::Dark) {
                let (left, top, length) = (x + QUIET, y + QUIET, run.len());
                path.push_str(&format!("M{left} {top}h{length}v1h-{length}z"));
            }
            x += run.len();
        }
    }
    Some(Code {
        size: width + 2 * QUIET,
        path,
    })
}

fn html(words: &Words, code: Option<&Code>, theme: &ButtonTheme) -> String {
    let Words {
        lang,
        title,
        description,
        amount,
        action,
        name,
        qr,
        uri,
    } = words;
    let ButtonTheme {
        accent,
        on_accent,
        text,
        ground,
        radius_px,
    } = theme;
    let radius = format!("border-radius:var(--flashkit-radius,{radius_px}px)");
    let mut out = format!(
        "<div lang=\"{lang}\" role=\"group\" aria-label=\"{name}\" style=\"display:inline-block;\
         max-width:20em;padding:1em;text-align:center;font-family:sans-serif;\
         color:var(--flashkit-text,{text});background:var(--flashkit-ground,{ground});{radius}\">"
    );
    for said in [title, description]
        .into_iter()
        .filter(|said| !said.is_empty())
    {
        out.push_str(&format!(
            "<p style=\"margin:0 0 .5em\"><bdi>{said}</bdi></p>"
        ));
    }
    if let Some(Code { size, path }) = code {
        out.push_str(&format!(
            "<svg xmlns=\"http://www.w3.org/2000/svg\" role=\"img\" aria-label=\"{qr}\" \
             viewBox=\"0 0 {size} {size}\" width=\"100%\" shape-rendering=\"crispEdges\">\
             <rect width=\"{size}\" height=\"{size}\" fill=\"#ffffff\"/>\
             <path d=\"{path}\" fill=\"#000000\"/></svg>"
        ));
    }
    let said = said(action, amount, "bdi");
    if uri.is_empty() {
        out.push_str(&format!("<p role=\"status\" style=\"margin:0\">{said}</p>"));
    } else {
        out.push_str(&format!(
            "<a href=\"{uri}\" rel=\"noreferrer\" aria-label=\"{name}\" style=\"display:block;\
             margin-top:.5em;padding:.75em;text-decoration:none;\
             color:var(--flashkit-on-accent,{on_accent});\
             background:var(--flashkit-accent,{accent});{radius}\">{said}</a>"
        ));
    }
    out.push_str("</div>");
    out
}

/// The amount keeps its own direction, whatever is around it.
fn said(action: &str, amount: &str, tag: &str) -> String {
    if amount.is_empty() {
        action.to_owned()
    } else {
        format!("{action} <{tag}>{amount}</{tag}>")
    }
}

fn svg(words: &Words, code: Option<&Code>, theme: &ButtonTheme) -> String {
    const WIDTH: usize = 320;
    const MARGIN: usize = 16;
    let inner = WIDTH - 2 * MARGIN;
    let mut out = String::new();
    let mut y = MARGIN;
    let fill = &theme.text;
    for said in [&words.title, &words.description] {
        for line in lines(said) {
            y += 20;
            out.push_str(&text(&line, y - 4, 14, fill));
        }
    }
    if let Some(Code { size, path }) = code {
        y += 8;
        out.push_str(&format!(
            "<svg x=\"{MARGIN}\" y=\"{y}\" width=\"{inner}\" height=\"{inner}\" \
             viewBox=\"0 0 {size} {size}\" shape-rendering=\"crispEdges\">\
             <rect width=\"{size}\" height=\"{size}\" fill=\"#ffffff\"/>\
             <path d=\"{path}\" fill=\"#000000\"/></svg>"
        ));
        y += inner + 8;
    }
    let (accent, radius) = (&theme.accent, theme.radius_px);
    let is_payable = !words.uri.is_empty();
    let mut pressed = String::new();
    if is_payable {
        pressed.push_str(&format!(
            "<rect x=\"{MARGIN}\" y=\"{y}\" width=\"{inner}\" height=\"48\" rx=\"{radius}\" \
             fill=\"{accent}\"/>"
        ));
    }
    let on = if is_payable { &theme.on_accent } else { fill };
    let said = said(&words.action, &words.amount, "tspan");
    pressed.push_str(&text(&said, y + 30, 16, on));
    if is_payable {
        pressed = format!("<a href=\"{}\">{pressed}</a>", words.uri);
    }
    out.push_str(&pressed);
    let (height, name, qr) = (y + 48 + MARGIN, &words.name, &words.qr);
    let described = if code.is_some() { qr.as_str() } else { "" };
    format!(
        "<svg xmlns=\"http://www.w3.org/2000/svg\" lang=\"{}\" role=\"img\" aria-label=\"{name}\" \
         viewBox=\"0 0 {WIDTH} {height}\" width=\"{WIDTH}\" height=\"{height}\" \
         font-family=\"sans-serif\"><title>{name}</title><desc>{described}</desc>\
         <rect width=\"{WIDTH}\" height=\"{height}\" rx=\"{radius}\" fill=\"{}\"/>{out}</svg>",
        words.lang, theme.ground
    )
}

/// What is said, in lines that are wide enough for it: broken between words.
fn lines(said: &str) -> Vec<String> {
    let mut lines: Vec<String> = Vec::new();
    for word in said.split_whitespace() {
        match lines.last_mut() {
            Some(line) if shown(line) + 1 + shown(word) <= LINE => {
                line.push(' ');
                line.push_str(word);
            }
            _ => lines.push(word.to_owned()),
        }
    }
    lines
}

/// One line in the middle; a long one is pressed together rather than cut off.
fn text(said: &str, y: usize, size: usize, fill: &str) -> String {
    // About half as wide as high.
    let wide = shown(said) * size / 2 > 288;
    let fit = if wide {
        " textLength=\"288\" lengthAdjust=\"spacingAndGlyphs\""
    } else {
        ""
    };
    format!(
        "<text x=\"160\" y=\"{y}\" font-size=\"{size}\" text-anchor=\"middle\" fill=\"{fill}\" \
         style=\"unicode-bidi:isolate\"{fit}>{said}</text>"
    )
}

/// How many characters of a text are seen: tags are not, and an escaped character is one.
fn shown(said: &str) -> usize {
    let (mut count, mut ends_with) = (0, None);
    for character in said.chars() {
        match (ends_with, character) {
            (None, '<') => ends_with = Some('>'),
            (None, '&') => (count, ends_with) = (count + 1, Some(';')),
            (None, _) => count += 1,
            (Some(end), _) if character == end => ends_with = None,
            (Some(_), _) => {}
        }
    }
    count
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_long_text_is_broken_between_words() {
        let said = "Two patties &amp; a coco bread with extra pepper sauce, to go";
        assert_eq!(
            lines(said),
            [
                "Two patties &amp; a coco bread with extra",
                "pepper sauce, to go"
            ]
        );
        let long = "x".repeat(60);
        assert_eq!(lines(&long), [long]);
        assert_eq!(lines(""), Vec::<String>::new());
    }

    #[test]
    fn only_what_is_seen_has_a_width() {
        assert_eq!(shown("Pay <tspan>J$5.00</tspan>"), 10);
        assert_eq!(shown("&lt;b&gt; &amp; c"), 7);
    }
}
