//! The page with a card's balance, in the markup that the apps in the field look for.
//!
//! They read it with three patterns: the address to top up in `href="lightning:…"`, the balance
//! before `SATS</dt>`, and the history in `<time datetime="…">`, `<td>` and `<span>`. There is
//! nothing on it that a reader of the page could use on the card: no key, and not the tap.

use std::fmt::Write as _;

use jiff::Timestamp;

use super::{HTML, LnurlReply, reason};
use crate::Error;
use crate::cards::model::{CardSnapshot, CardState};
use crate::cards::{Cards, load, require_bitcoin, top_up_address};
use crate::ledger::Account;
use crate::lnurl::LnurlQuery;

impl Cards {
    /// The page of a tap, which is looked at and not used up.
    pub(super) async fn answer_balance(&self, query: &LnurlQuery) -> LnurlReply {
        match self.page_of(query).await {
            Ok(body) => page(200, body),
            Err(error) => page(
                400,
                format!(
                    "<!DOCTYPE html>\n<title>Card</title>\n<p>{}</p>\n",
                    escaped(&reason(&error))
                ),
            ),
        }
    }

    async fn page_of(&self, query: &LnurlQuery) -> Result<String, Error> {
        let snapshot = self.peek(&query.tap()).await?.value;
        let address = top_up_address::of_card(&self.core, snapshot.card).await?;
        let card = load(&self.core, snapshot.card).await?.value;
        // The page knows sats alone, and says nothing rather than another figure.
        require_bitcoin(&card)?;
        let account = card.balance_account();
        Ok(render(&snapshot, account, &address.lnurl))
    }
}

fn page(status: u16, body: String) -> LnurlReply {
    LnurlReply {
        status,
        content_type: HTML.to_owned(),
        body,
    }
}

fn render(card: &CardSnapshot, account: Account, lnurl: &str) -> String {
    let state = match card.state {
        CardState::Active => "in use",
        _ => "not in use",
    };
    let mut page = format!(
        "<!DOCTYPE html>\n<html lang=\"en\">\n<head><meta charset=\"utf-8\">\
         <meta name=\"robots\" content=\"noindex\"><title>Card</title></head>\n<body>\n\
         <dl><dt>{} SATS</dt><dd>{state}</dd></dl>\n\
         <p><a href=\"lightning:{lnurl}\">Top up</a></p>\n<table>\n",
        sats(card.balance_msat)
    );
    for row in &card.history {
        let sign = if row.debit == account { -1 } else { 1 };
        let at = Timestamp::from_millisecond(row.at_ms).unwrap_or(Timestamp::UNIX_EPOCH);
        let at = at.strftime("%Y-%m-%dT%H:%M:%SZ");
        let amount = sats(sign * row.amount);
        // A text never fails to take more.
        let _ = writeln!(
            page,
            "<tr><td><time datetime=\"{at}\">{at}</time></td><td><span>{amount} SATS</span></td></tr>"
        );
    }
    page.push_str("</table>\n</body>\n</html>\n");
    page
}

/// Whole sats, what is less left out, with a comma at every thousand.
fn sats(msat: i64) -> String {
    let sats = msat / 1_000;
    let digits = sats.unsigned_abs().to_string();
    let mut text = String::new();
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            text.push(',');
        }
        text.push(digit);
    }
    if sats < 0 { format!("-{text}") } else { text }
}

/// A text as it stands in HTML.
fn escaped(text: &str) -> String {
    text.chars()
        .map(|character| match character {
            '&' => "&amp;".to_owned(),
            '<' => "&lt;".to_owned(),
            '>' => "&gt;".to_owned(),
            '"' => "&quot;".to_owned(),
            other => other.to_string(),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sats_have_commas_and_lose_their_rest() {
        for (msat, expected) in [
            (0, "0"),
            (-999, "0"),
            (999_999, "999"),
            (1_000_000, "1,000"),
            (-1_234_000, "-1,234"),
            (1_234_567_890, "1,234,567"),
            (2_100_000_000_000_000_000, "2,100,000,000,000,000"),
        ] {
            assert_eq!(sats(msat), expected);
        }
        assert_eq!(
            escaped("<a href=\"&\">"),
            "&lt;a href=&quot;&amp;&quot;&gt;"
        );
    }
}
