//! The rails of an invoice: made when they are asked for, and again for the rest.

use super::given_address;
use super::model::{
    Custody, Invoice, InvoiceState, LightningRail, OfferRail, OnChainRail, UnavailableRail,
};
use super::options::GivenAddress;
use super::payment::Rail;
use super::{INVOICES, InvoiceError, Invoices, RAIL_JOB, steps};
use crate::Error;
use crate::chain::ChainError;
use crate::core::Loaded;
use crate::ids::InvoiceId;
use crate::ledger::Step;
use crate::lightning::{InvoiceRequest, LightningError, OfferRequest, PaymentHash, Preimage};

/// An output of less than this is not relayed (Bitcoin Core, P2PKH at 3 sat a byte).
const DUST_SAT: i64 = 546;
/// More texts than anybody pays the rest by.
const MAX_LIGHTNING_RAILS: usize = 100;
/// How long the text for the rest waits until the channels are looked at again.
const ROOM_AGAIN_MS: i64 = 60_000;
/// A text that can be paid for less long than this is not made any more.
const SHORTEST_SECONDS: i64 = 10;

impl Invoice {
    /// It is what was tried before, with what the node made for that: for the same amount, and of
    /// the time when it was made.
    pub(super) fn take_over(&mut self, before: Self) {
        self.id = before.id;
        self.payment_hash = before.payment_hash;
        self.quote = before.quote;
        (self.created_at_ms, self.expires_at_ms) = (before.created_at_ms, before.expires_at_ms);
        (self.bolt11, self.lightning) = (before.bolt11, before.lightning);
        self.offer = before.offer;
    }
}

impl Invoices {
    /// Makes the rails that were asked for. One that cannot be made says why, as long as there is
    /// another.
    pub(super) async fn make_rails(
        &self,
        invoice: &mut Invoice,
        expiry_seconds: u32,
    ) -> Result<Vec<Step>, Error> {
        let wanted = invoice.options.wanted_rails().to_vec();
        let (mut first, mut steps) = (None, Vec::new());
        for rail in &wanted {
            let made = match rail {
                Rail::Lightning if !invoice.lightning.is_empty() => Ok(()),
                Rail::Bolt12 if invoice.offer.is_some() => Ok(()),
                Rail::Lightning => self.make_lightning(invoice, expiry_seconds).await,
                Rail::OnChain => self.make_on_chain(invoice, &mut steps).await,
                // Its payment hash is all that a payment by book needs.
                Rail::Book => Ok(()),
                Rail::Bolt12 => self.make_offer(invoice, expiry_seconds).await,
            };
            match made {
                Ok(()) => {}
                Err(error @ (Error::Store(_) | Error::Entropy(_))) => return Err(error),
                Err(error) => {
                    invoice.unavailable.push(UnavailableRail {
                        rail: *rail,
                        code: error.code().to_owned(),
                        detail: error.detail(),
                    });
                    first = first.or(Some(error));
                }
            }
        }
        match first {
            Some(error) if invoice.unavailable.len() == wanted.len() => Err(error),
            _ => Ok(steps),
        }
    }

    async fn make_lightning(
        &self,
        invoice: &mut Invoice,
        expiry_seconds: u32,
    ) -> Result<(), Error> {
        let rail = self.lightning_rail(invoice, expiry_seconds).await?;
        invoice.bolt11.clone_from(&rail.bolt11);
        invoice.lightning.push(rail);
        Ok(())
    }

    /// A BOLT11 text for what is due, under a payment hash of its own.
    async fn lightning_rail(
        &self,
        invoice: &Invoice,
        expiry_seconds: u32,
    ) -> Result<LightningRail, Error> {
        let node = self.core.node()?;
        let amount_msat = (!invoice.is_open_amount()).then(|| invoice.due_msat());
        let opened_for_at_most_msat = match self.require_inbound(amount_msat).await {
            Ok(()) => None,
            Err(Error::Lightning(LightningError::NoInboundCapacity { .. }))
                if invoice.options.just_in_time_max_fee_msat.is_some() =>
            {
                invoice.options.just_in_time_max_fee_msat
            }
            Err(error) => return Err(error),
        };
        let at = invoice.lightning.len();
        let payment_hash = self.core.secrets.preimage_at(invoice.id, at).payment_hash();
        let mut description_hash = None;
        if let Some(text) = &invoice.description_hash {
            let mut bytes = [0; 32];
            hex::decode_to_slice(text, &mut bytes).map_err(|_| InvoiceError::BadDescriptionHash)?;
            description_hash = Some(bytes);
        }
        let request = InvoiceRequest {
            payment_hash,
            amount_msat,
            description: invoice.description.clone(),
            description_hash,
            expiry_seconds,
        };
        let bolt11 = match opened_for_at_most_msat {
            Some(most_msat) => node.create_just_in_time_invoice(request, most_msat).await?,
            None => node.create_invoice(request).await?,
        };
        Ok(LightningRail {
            payment_hash,
            bolt11,
            amount_msat,
            just_in_time: opened_for_at_most_msat.is_some(),
        })
    }

    async fn make_offer(&self, invoice: &mut Invoice, expiry_seconds: u32) -> Result<(), Error> {
        let node = self.core.node()?;
        let amount_msat = (!invoice.is_open_amount()).then(|| invoice.due_msat());
        self.require_inbound(amount_msat).await?;
        let request = OfferRequest {
            amount_msat,
            description: invoice.description.clone(),
            expiry_seconds,
        };
        let offer = node.create_offer(request).await?;
        invoice.offer = Some(OfferRail {
            id: offer.id,
            text: offer.text,
            amount_msat,
        });
        Ok(())
    }

    async fn make_on_chain(
        &self,
        invoice: &mut Invoice,
        steps: &mut Vec<Step>,
    ) -> Result<(), Error> {
        let open = invoice.is_open_amount();
        let amount_sat = invoice.due_msat().saturating_add(999) / 1_000;
        if !open && amount_sat < DUST_SAT {
            let least_sat = DUST_SAT;
            return Err(InvoiceError::Dust {
                amount_sat,
                least_sat,
            }
            .into());
        }
        let (address, custody, given_at_height) = self.new_address(invoice, steps).await?;
        invoice.on_chain = Some(OnChainRail {
            address,
            custody,
            amount_sat: (!open).then_some(amount_sat),
            given_at_height,
        });
        Ok(())
    }

    /// A fresh address for an invoice, from the newest wallet of its merchant, or else of the
    /// operator, with the steps that give it out; and the chain's height, where it is known.
    async fn new_address(
        &self,
        invoice: &Invoice,
        steps: &mut Vec<Step>,
    ) -> Result<(String, Custody, Option<u32>), Error> {
        if let Some(GivenAddress { address, custody }) = &invoice.options.address {
            let address = given_address::canonical(address, &self.core.network)?;
            return Ok((address, *custody, None));
        }
        #[cfg(feature = "chain")]
        {
            use crate::wallets::{WalletOwner, Wallets};
            let wallets = Wallets::new(self.core.clone(), self.clone());
            let (merchant, until_ms) = (invoice.purpose.merchant(), invoice.monitored_until_ms());
            let given = wallets.address_for(invoice.id, merchant, until_ms).await?;
            if let Some((address, owner, given_out)) = given {
                steps.extend(given_out);
                let custody = match owner {
                    WalletOwner::Operator => Custody::Operator,
                    WalletOwner::Merchant { .. } => Custody::Merchant,
                };
                return Ok((address.address, custody, wallets.height().await?));
            }
        }
        #[cfg(not(feature = "chain"))]
        let _ = steps;
        Err(ChainError::NoWallet.into())
    }

    /// The secret of one of an invoice's payment hashes.
    pub(super) fn preimage_of(&self, invoice: &Invoice, hash: PaymentHash) -> Preimage {
        let is_it = |rail: &LightningRail| rail.payment_hash == hash;
        let at = invoice.lightning.iter().position(is_it).unwrap_or(0);
        self.core.secrets.preimage_at(invoice.id, at)
    }

    /// The job that asks for the rest by a new text, after a part was paid.
    pub(crate) async fn renew_rail(&self, id: InvoiceId) -> Result<(), Error> {
        let invoice = self.load(id).await?;
        let mut done = Step::Done {
            kind: RAIL_JOB,
            object: id.to_string(),
        };
        let mut renewed = None;
        if let Some(invoice) = &invoice {
            match self.rest_of(&invoice.value).await {
                Ok(rail) => renewed = rail,
                // The other rails go on, and this one when there is room: at the latest the end of
                // the invoice's time is the end of it.
                Err(Error::Lightning(
                    LightningError::NoInboundCapacity { .. } | LightningError::Draining,
                )) => {
                    let at_ms = self.core.clock.now_ms().saturating_add(ROOM_AGAIN_MS);
                    done = steps::later(RAIL_JOB, &invoice.value, at_ms);
                }
                Err(error) => return Err(error),
            }
        }
        let (Some(Loaded { version, value }), Some(rail)) = (&invoice, renewed) else {
            // Another part may have been paid meanwhile: the rest is then asked for by this job.
            let mut batch: Vec<Step> = invoice.iter().map(super::guard).collect();
            batch.push(done);
            return match self.core.commit(batch).await {
                Err(Error::Ledger(refusal)) if refusal.should_decide_again() => Ok(()),
                other => other.map(drop),
            };
        };
        let mut after = value.clone();
        after.bolt11.clone_from(&rail.bolt11);
        after.lightning.push(rail);
        after
            .unavailable
            .retain(|rail| rail.rail != Rail::Lightning);
        let before = Loaded {
            version: *version,
            value: value.clone(),
        };
        let mut batch = steps::write(&before, &mut after, "invoice.updated")?.to_vec();
        batch.push(done);
        match self.core.commit(batch).await {
            // What it was made for has changed: the job is still there, and looks again.
            Err(Error::Ledger(refusal)) if refusal.should_decide_again() => Ok(()),
            other => other.map(drop),
        }
    }

    async fn rest_of(&self, invoice: &Invoice) -> Result<Option<LightningRail>, Error> {
        let left_ms = invoice.expires_at_ms - self.core.clock.now_ms();
        let wanted = invoice.state == InvoiceState::New
            && invoice.wants_lightning()
            && invoice.payable_rail().is_none()
            && invoice.lightning.len() < MAX_LIGHTNING_RAILS
            && left_ms >= SHORTEST_SECONDS * 1_000;
        if !wanted {
            return Ok(None);
        }
        let expiry_seconds = u32::try_from(left_ms / 1_000).unwrap_or(u32::MAX);
        let rail = self.lightning_rail(invoice, expiry_seconds).await?;
        Ok(Some(rail))
    }

    /// The invoice that a payment hash is of.
    pub(super) async fn by_hash(
        &self,
        hash: PaymentHash,
    ) -> Result<Option<Loaded<Invoice>>, Error> {
        let key = hash.to_string();
        let found = self.core.find(INVOICES, "payment_hash", &key).await?;
        Ok(found.map(super::upgraded))
    }

    /// The channels can take the amount in, or where whoever pays chooses it, anything at all.
    async fn require_inbound(&self, amount_msat: Option<i64>) -> Result<(), Error> {
        let asked_msat = amount_msat.unwrap_or(1);
        let available_msat = self.core.node()?.inbound_capacity_msat().await?;
        if asked_msat <= available_msat {
            return Ok(());
        }
        // Nor is a channel opened just in time for it.
        if self.core.draining().await?.value.is_some() {
            return Err(LightningError::Draining.into());
        }
        Err(LightningError::NoInboundCapacity {
            asked_msat,
            available_msat,
        }
        .into())
    }
}
