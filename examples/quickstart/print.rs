//! What a person reads.

use std::time::Instant;

use flashkit::Engine;
use flashkit::ledger::Side;
use flashkit::lightning::ldk::LdkNode;
use flashkit::lightning::{PaymentDirection, PaymentState};
use flashkit::money::{Asset, Currency, Rate, Rounding, format_minor};
use qrcode::QrCode;
use qrcode::render::unicode::Dense1x2;

use crate::Failure;

/// Says things, with the time since the start.
pub struct Printer {
    begun: Instant,
    currency: Currency,
    rate: Rate,
}

impl Printer {
    pub fn new(currency: Currency, rate: Rate) -> Self {
        Self {
            begun: Instant::now(),
            currency,
            rate,
        }
    }

    pub fn progress(&self, text: &str) {
        let elapsed = self.begun.elapsed();
        println!(
            "   … {text} ({}.{}s)",
            elapsed.as_secs(),
            elapsed.subsec_millis() / 100
        );
    }

    pub fn step(&self, title: &str) {
        println!("\n── {title}");
    }

    pub fn say(&self, text: &str) {
        println!("   {text}");
    }

    /// `10,000 sat (J$1,500.00)`.
    pub fn money(&self, amount_msat: i64) -> String {
        let sats = format_minor(Asset::Btc, amount_msat);
        match self
            .rate
            .msat_to_fiat(self.currency, amount_msat, Rounding::HalfEven)
        {
            Ok(minor) => format!(
                "{sats} ({})",
                format_minor(Asset::Fiat(self.currency), minor)
            ),
            Err(_) => sats,
        }
    }

    pub fn qr(&self, bolt11: &str) -> Result<(), Failure> {
        // Upper case makes a smaller code; BOLT11 reads the same in both.
        let code = QrCode::new(bolt11.to_uppercase())?;
        let picture = code.render::<Dense1x2>().quiet_zone(true).build();
        for line in picture.lines() {
            println!("   {line}");
        }
        self.say("This invoice is for regtest: play money, of use on this machine alone.");
        Ok(())
    }

    pub async fn trial_balance(&self, engine: &Engine) -> Result<(), Failure> {
        let books = engine.reports().trial_balance(&engine.issuer()).await?;
        println!(
            "   {:<20} {:<12} {:>24} {:>24}",
            "account", "whose", "debit", "credit"
        );
        for line in books.lines.iter().filter(|line| line.balance != 0) {
            let owner = line.account.owner().to_string();
            // The end of an id is what differs from one owner to the next.
            let owner = match owner.split_once('_') {
                Some((kind, id)) => format!("{kind} …{}", &id[id.len().saturating_sub(5)..]),
                None => owner,
            };
            let amount = format_minor(line.account.asset(), i64::try_from(line.balance)?);
            let (debit, credit) = match line.side {
                Side::Debit => (amount, String::new()),
                Side::Credit => (String::new(), amount),
            };
            println!(
                "   {:<20} {owner:<12} {debit:>24} {credit:>24}",
                line.account.kind()
            );
        }
        for (asset, totals) in &books.totals {
            let name = match asset {
                Asset::Points(_) => "points".to_owned(),
                other => other.to_string(),
            };
            let (debits, credits) = (
                i64::try_from(totals.debits)?,
                i64::try_from(totals.credits)?,
            );
            let (debits, credits) = (format_minor(*asset, debits), format_minor(*asset, credits));
            println!(
                "   {:<33} {debits:>24} {credits:>24}",
                format!("ever moved, {name}")
            );
        }
        let verdict = if books.is_balanced() {
            "balanced"
        } else {
            "NOT BALANCED"
        };
        self.say(&format!(
            "The books are {verdict}: debits equal credits in every asset."
        ));
        Ok(())
    }

    pub async fn trace(&self, title: &str, node: &LdkNode) -> Result<(), Failure> {
        self.say(title);
        for payment in node.list_payments().await? {
            let direction = match payment.direction {
                PaymentDirection::Inbound => "in ",
                PaymentDirection::Outbound => "out",
            };
            let state = match payment.state {
                PaymentState::Pending => "pending",
                PaymentState::Succeeded => "succeeded",
                PaymentState::Failed => "failed",
            };
            let amount = format_minor(Asset::Btc, payment.amount_msat.unwrap_or(0));
            println!(
                "     {} {direction} {amount:>14} {state}",
                payment.payment_hash
            );
        }
        Ok(())
    }
}
