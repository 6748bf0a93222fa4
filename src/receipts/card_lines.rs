//! A card's receipt as lines that a printer module renders.

use super::error::ReceiptError;
use super::format::{format_points, format_rate};
use super::language::Label;
use super::lines::{ReceiptLine, ReceiptLineKind, Writer};
use super::model::ReceiptSettings;
use super::settings::zone;
use crate::cards::{CardReceipt, CardReceiptKind, CardReceiptLine};
use crate::money::{Asset, Price, Quote};

impl CardReceipt {
    /// What is printed of it: in a seller's language and time zone, between the seller's heading
    /// and footer. `seller` is the name to print where the settings have no heading. Nothing is
    /// asked of the books, so that a till prints it without them; the same settings make the same
    /// lines.
    ///
    /// # Errors
    /// `receipt.unknown_time_zone`.
    pub fn printed(
        &self,
        settings: &ReceiptSettings,
        seller: &str,
    ) -> Result<Vec<ReceiptLine>, ReceiptError> {
        let zone = zone(&settings.time_zone)?;
        let mut writer = Writer::new(settings.language, &zone);
        writer.seller(settings, seller);
        writer.card_head(self);
        for line in &self.lines {
            writer.card_line(self.kind, line);
        }
        writer.footer(settings);
        Ok(writer.lines)
    }
}

impl Writer<'_> {
    fn card_head(&mut self, receipt: &CardReceipt) {
        use ReceiptLineKind::{Detail, Field, Title};
        let title = match receipt.kind {
            CardReceiptKind::Charge => Label::Sale,
            CardReceiptKind::Refund => Label::Refund,
            CardReceiptKind::Payment => Label::Payment,
            CardReceiptKind::TopUp => Label::TopUp,
            CardReceiptKind::Withdrawal => Label::Withdrawal,
        };
        let title = title.text(self.language);
        self.lines.push(ReceiptLine::centered(Title, title));
        self.stacked(Detail, Label::Number, &receipt.number);
        self.time(Field, Label::Date, receipt.at_ms);
        self.stacked(Detail, Label::Card, &receipt.card.to_string());
        match receipt.kind {
            CardReceiptKind::Charge | CardReceiptKind::Refund if !receipt.reference.is_empty() => {
                self.line(Field, Label::Order, &receipt.reference);
            }
            CardReceiptKind::Payment => {
                self.stacked(Detail, Label::PaymentHash, &receipt.reference);
            }
            // The reference of anything else is a name of the books'.
            _ => {}
        }
        self.lines.push(ReceiptLine::rule());
    }

    fn card_line(&mut self, of: CardReceiptKind, line: &CardReceiptLine) {
        use ReceiptLineKind::{Change, Field, Part, Payment, Total};
        match line {
            CardReceiptLine::Price { price } => {
                let (asset, amount) = match *price {
                    Price::Bitcoin { amount_msat } => (Asset::Btc, amount_msat),
                    Price::Fiat {
                        currency,
                        minor_units,
                    } => (Asset::Fiat(currency), minor_units),
                };
                self.amount(Total, Label::Total, asset, amount);
            }
            CardReceiptLine::Rate { quote } => self.quote(quote),
            CardReceiptLine::Paid { asset, amount } => {
                self.amount(Payment, Label::Paid, *asset, *amount);
            }
            CardReceiptLine::RouteFee { amount_msat } => {
                self.amount(Part, Label::Fee, Asset::Btc, *amount_msat);
            }
            CardReceiptLine::Received { asset, amount } => {
                let label = match of {
                    CardReceiptKind::Refund => Label::Refunded,
                    _ => Label::Received,
                };
                self.amount(Payment, label, *asset, *amount);
            }
            CardReceiptLine::Withheld { amount_msat } => {
                self.amount(Change, Label::KeptForPoints, Asset::Btc, *amount_msat);
            }
            CardReceiptLine::Points { points } => {
                let label = if *points < 0 {
                    Label::PointsTakenBack
                } else {
                    Label::PointsEarned
                };
                let points = format_points(self.language, *points);
                self.line(Field, label, points);
            }
            CardReceiptLine::Balance { asset, amount } => {
                self.lines.push(ReceiptLine::rule());
                self.amount(Field, Label::CardBalance, *asset, *amount);
            }
        }
    }

    fn quote(&mut self, quote: &Quote) {
        use ReceiptLineKind::Field;
        let rate = format_rate(self.language, quote.currency, quote.rate);
        self.line(Field, Label::Rate, rate);
        self.line(Field, Label::RateSource, &quote.source);
        self.time(Field, Label::RateTime, quote.observed_at_ms);
    }
}
