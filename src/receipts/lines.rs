//! A receipt as lines that a printer module renders, whatever the width of its paper.

use jiff::tz::TimeZone;
use serde::{Deserialize, Serialize};

use super::format::{format_amount, format_rate, format_time};
use super::language::{Label, Language};
use super::model::{Receipt, ReceiptKind, ReceiptSettings};
use crate::invoices::{InvoiceLine, Rail};
use crate::money::{Asset, Price};

/// What a line is, so that a printer can give each kind its own look.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReceiptLineKind {
    /// Who sells.
    Heading,
    /// What this is.
    Title,
    /// A fact: its label, and what it is.
    Field,
    /// Something that was bought, and what it cost.
    Item,
    /// A part of the total.
    Part,
    /// The total.
    Total,
    /// A payment.
    Payment,
    /// What is said of the line before it.
    Detail,
    /// What changed since: refunded, reversed.
    Change,
    /// A rule across the paper.
    Rule,
    /// What stands at the end.
    Footer,
}

/// Where the texts of a line stand.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum ReceiptAlignment {
    /// One text, in the middle.
    Center,
    /// The label at the left edge and the value at the right one; where both do not fit, the value
    /// on the next line.
    Edges,
    /// The label, and the value on a line of its own, broken wherever the paper ends.
    Stacked,
}

/// A line of a receipt.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct ReceiptLine {
    /// What it is.
    pub kind: ReceiptLineKind,
    /// What stands at its left edge, or in its middle; empty for a rule.
    pub label: String,
    /// What stands at its right edge, or below; empty where there is none.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub value: String,
    /// Where they stand.
    pub alignment: ReceiptAlignment,
}

impl ReceiptLine {
    /// A text in the middle.
    pub fn centered(kind: ReceiptLineKind, text: impl Into<String>) -> Self {
        Self {
            kind,
            label: text.into(),
            value: String::new(),
            alignment: ReceiptAlignment::Center,
        }
    }

    /// A label and its value.
    pub fn new(kind: ReceiptLineKind, label: impl Into<String>, value: impl Into<String>) -> Self {
        Self {
            kind,
            label: label.into(),
            value: value.into(),
            alignment: ReceiptAlignment::Edges,
        }
    }

    /// A label, and a value that is longer than paper is wide.
    pub fn stacked(
        kind: ReceiptLineKind,
        label: impl Into<String>,
        value: impl Into<String>,
    ) -> Self {
        Self {
            alignment: ReceiptAlignment::Stacked,
            ..Self::new(kind, label, value)
        }
    }

    /// A rule across the paper.
    pub fn rule() -> Self {
        Self::centered(ReceiptLineKind::Rule, "")
    }
}

/// Writes lines in one language and one time zone.
pub(super) struct Writer<'a> {
    pub(super) language: Language,
    zone: &'a TimeZone,
    pub(super) lines: Vec<ReceiptLine>,
}

impl<'a> Writer<'a> {
    pub(super) fn new(language: Language, zone: &'a TimeZone) -> Self {
        Self {
            language,
            zone,
            lines: Vec::new(),
        }
    }

    pub(super) fn amount(&mut self, kind: ReceiptLineKind, label: Label, asset: Asset, minor: i64) {
        let value = format_amount(self.language, asset, minor);
        self.line(kind, label, value);
    }

    pub(super) fn line(&mut self, kind: ReceiptLineKind, label: Label, value: impl Into<String>) {
        let label = label.text(self.language);
        self.lines.push(ReceiptLine::new(kind, label, value));
    }

    pub(super) fn stacked(&mut self, kind: ReceiptLineKind, label: Label, value: &str) {
        let label = label.text(self.language);
        self.lines.push(ReceiptLine::stacked(kind, label, value));
    }

    pub(super) fn time(&mut self, kind: ReceiptLineKind, label: Label, at_ms: i64) {
        let value = format_time(self.language, self.zone, at_ms);
        self.line(kind, label, value);
    }
}

/// What the lines need beside the receipt's own fields.
pub(super) struct Sold<'a> {
    pub(super) settings: &'a ReceiptSettings,
    /// Who sells, where the settings do not say.
    pub(super) seller: &'a str,
    pub(super) items: &'a [InvoiceLine],
    pub(super) tax_included: bool,
}

/// All lines of a receipt whose other fields are filled in.
pub(super) fn write(receipt: &Receipt, sold: &Sold<'_>, zone: &TimeZone) -> Vec<ReceiptLine> {
    let mut writer = Writer::new(receipt.language, zone);
    writer.head(receipt, sold);
    writer.items(receipt, sold);
    writer.paid(receipt);
    writer.changes(receipt);
    writer.footer(sold.settings);
    writer.lines
}

impl Writer<'_> {
    /// Who sells: as the settings say, or else by name.
    pub(super) fn seller(&mut self, settings: &ReceiptSettings, seller: &str) {
        use ReceiptLineKind::{Field, Heading};
        let heading = &settings.heading;
        let seller = [seller.to_owned()];
        let named = if heading.is_empty() {
            &seller[..]
        } else {
            heading
        };
        for text in named.iter().filter(|text| !text.is_empty()) {
            self.lines.push(ReceiptLine::centered(Heading, text));
        }
        if !settings.tax_number.is_empty() {
            self.line(Field, Label::TaxNumber, &settings.tax_number);
        }
    }

    pub(super) fn footer(&mut self, settings: &ReceiptSettings) {
        if !settings.footer.is_empty() {
            self.lines.push(ReceiptLine::rule());
        }
        for text in &settings.footer {
            let line = ReceiptLine::centered(ReceiptLineKind::Footer, text);
            self.lines.push(line);
        }
    }

    fn head(&mut self, receipt: &Receipt, sold: &Sold<'_>) {
        use ReceiptLineKind::{Field, Title};
        self.seller(sold.settings, sold.seller);
        let title = match receipt.kind {
            ReceiptKind::Sale => Label::Receipt,
            ReceiptKind::Correction { .. } => Label::Correction,
        };
        let title = title.text(self.language);
        self.lines.push(ReceiptLine::centered(Title, title));
        self.line(Field, Label::Number, receipt.number.to_string());
        if let ReceiptKind::Correction { corrects } = receipt.kind {
            self.line(Field, Label::Corrects, corrects.to_string());
        }
        self.time(Field, Label::Date, receipt.issued_at_ms);
        if !receipt.order_reference.is_empty() {
            self.line(Field, Label::Order, &receipt.order_reference);
        }
    }

    fn items(&mut self, receipt: &Receipt, sold: &Sold<'_>) {
        use ReceiptLineKind::{Item, Part, Total};
        self.lines.push(ReceiptLine::rule());
        let (asset, total) = priced(receipt);
        for item in sold.items {
            let label = if item.quantity == 1 {
                item.description.clone()
            } else {
                let each = format_amount(self.language, asset, item.unit_price_minor);
                format!("{} × {} @ {each}", item.quantity, item.description)
            };
            let whole = item.unit_price_minor.saturating_mul(item.quantity.into());
            let value = format_amount(self.language, asset, whole);
            self.lines.push(ReceiptLine::new(Item, label, value));
        }
        if sold.items.is_empty() && !receipt.description.is_empty() {
            let value = format_amount(self.language, asset, total - receipt.tip_minor);
            let line = ReceiptLine::new(Item, &receipt.description, value);
            self.lines.push(line);
        }
        let on_top = !sold.tax_included && receipt.tax_minor > 0;
        if on_top || receipt.tip_minor > 0 {
            let tax_minor = if on_top { receipt.tax_minor } else { 0 };
            let bare = total.saturating_sub(tax_minor);
            let bare = bare.saturating_sub(receipt.tip_minor);
            self.amount(Part, Label::Subtotal, asset, bare);
        }
        if on_top {
            self.amount(Part, Label::Tax, asset, receipt.tax_minor);
        }
        if receipt.tip_minor > 0 {
            self.amount(Part, Label::Tip, asset, receipt.tip_minor);
        }
        self.amount(Total, Label::Total, asset, total);
        if sold.tax_included && receipt.tax_minor > 0 {
            self.amount(Part, Label::TaxIncluded, asset, receipt.tax_minor);
        }
        self.rate(receipt);
    }

    fn rate(&mut self, receipt: &Receipt) {
        use ReceiptLineKind::Field;
        let Some(rate) = &receipt.rate else { return };
        self.amount(Field, Label::InBitcoin, Asset::Btc, receipt.amount_msat);
        let one = format_rate(self.language, rate.currency, rate.rate);
        self.line(Field, Label::Rate, one);
        self.line(Field, Label::RateSource, &rate.source);
        self.time(Field, Label::RateTime, rate.observed_at_ms);
    }

    fn paid(&mut self, receipt: &Receipt) {
        use ReceiptLineKind::{Detail, Field, Payment};
        self.lines.push(ReceiptLine::rule());
        for payment in &receipt.payments {
            let (rail, known_by) = match payment.rail {
                Rail::Lightning => (Label::Lightning, Label::PaymentHash),
                Rail::Bolt12 => (Label::Lightning, Label::PaymentHash),
                Rail::OnChain => (Label::OnChain, Label::Transaction),
                Rail::Book => (Label::Book, Label::PaymentHash),
            };
            self.amount(Payment, rail, Asset::Btc, payment.amount_msat);
            self.time(Detail, Label::PaidAt, payment.at_ms);
            self.stacked(Detail, known_by, &payment.reference);
        }
        if let Some(at_ms) = receipt.marked_paid_at_ms {
            self.time(Payment, Label::MarkedPaid, at_ms);
        }
        if receipt.overpaid_msat > 0 {
            self.amount(Field, Label::Overpaid, Asset::Btc, receipt.overpaid_msat);
        }
        if receipt.underpaid_msat > 0 {
            self.amount(Field, Label::Underpaid, Asset::Btc, receipt.underpaid_msat);
        }
    }

    fn changes(&mut self, receipt: &Receipt) {
        use ReceiptLineKind::Change;
        let (refunded, reversed) = (receipt.refunded_msat, receipt.reorged_msat);
        if refunded > 0 {
            self.amount(Change, Label::Refunded, Asset::Btc, -refunded);
        }
        if reversed > 0 {
            self.amount(Change, Label::Reversed, Asset::Btc, -reversed);
        }
    }
}

/// What the lines are counted in, and what they come to. Where whoever paid chose, it is what was
/// paid.
fn priced(receipt: &Receipt) -> (Asset, i64) {
    match receipt.price {
        Some(Price::Fiat {
            currency,
            minor_units,
        }) => (Asset::Fiat(currency), minor_units),
        Some(Price::Bitcoin { amount_msat }) => (Asset::Btc, amount_msat),
        None => {
            let paid = receipt.payments.iter().map(|payment| payment.amount_msat);
            (Asset::Btc, paid.fold(0, i64::saturating_add))
        }
    }
}
