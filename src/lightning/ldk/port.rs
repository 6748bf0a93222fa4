//! The adapter as the port: each call, as ldk-node understands it.

use std::str::FromStr;
use std::sync::Arc;

use async_trait::async_trait;
use ldk_node::lightning::ln::channelmanager::PaymentId;
use ldk_node::lightning_invoice::Bolt11Invoice;

use super::balances::{inbound_capacity_msat, node_balances};
use super::closing;
use super::node::{LdkNode, lock, start_failed};
use super::payments::{
    claim, create_invoice, create_just_in_time_invoice, create_offer, fail, ldk_hash, pay,
    skimmed_fee_msat,
};
use super::records::{
    lightning_event, needs_more, node_error, payment_record, received_payment, refused, unknown,
    unsigned,
};
use super::recovery;
use crate::lightning::{
    Bolt11Details, Dispatch, InvoiceRequest, LightningError, LightningEvent, LightningNode,
    LostChannel, NodeBalances, NodeTrouble, Offer, OfferRequest, OnchainWallet, OpenChannel,
    PaymentHash, PaymentRecord, PaymentRequest, Preimage,
};

#[async_trait]
impl LightningNode for LdkNode {
    async fn start(&self) -> Result<(), LightningError> {
        let task = self.shared.runtime.spawn(Arc::clone(&self.shared).start());
        task.await
            .map_err(|error| start_failed(error.to_string()))?
    }

    async fn stop(&self) -> Result<(), LightningError> {
        let task = self.shared.runtime.spawn(Arc::clone(&self.shared).stop());
        task.await.map_err(|error| unknown(error.to_string()))?
    }

    fn trouble(&self) -> Option<NodeTrouble> {
        self.shared.health.trouble()
    }

    fn node_id(&self) -> String {
        self.shared.node_id.to_string()
    }

    async fn create_invoice(&self, request: InvoiceRequest) -> Result<String, LightningError> {
        self.call_with_records(move |node| create_invoice(node, &request))
            .await?
    }

    async fn create_offer(&self, request: OfferRequest) -> Result<Offer, LightningError> {
        self.call(move |node| create_offer(node, &request)).await?
    }

    async fn create_just_in_time_invoice(
        &self,
        request: InvoiceRequest,
        max_fee_msat: i64,
    ) -> Result<String, LightningError> {
        if self.shared.liquidity.is_none() {
            return Err(LightningError::NoLiquidityProvider);
        }
        self.call(move |node| create_just_in_time_invoice(node, &request, max_fee_msat))
            .await?
    }

    async fn skimmed_fee_msat(&self, payment_hash: PaymentHash) -> Result<i64, LightningError> {
        self.call(move |node| skimmed_fee_msat(node, ldk_hash(payment_hash)))
            .await
    }

    async fn claim(
        &self,
        payment_hash: PaymentHash,
        preimage: Preimage,
        amount_msat: i64,
    ) -> Result<(), LightningError> {
        let amount_msat = unsigned(amount_msat)?;
        self.call(move |node| claim(node, ldk_hash(payment_hash), &preimage, amount_msat))
            .await?
    }

    async fn fail(&self, payment_hash: PaymentHash) -> Result<(), LightningError> {
        self.call(move |node| fail(node, ldk_hash(payment_hash)))
            .await?
    }

    async fn pay(&self, request: PaymentRequest) -> Result<Dispatch, LightningError> {
        let details: Bolt11Details = request.bolt11.parse()?;
        let expected = self.config().network.name();
        if details.network != expected {
            return Err(LightningError::WrongNetwork {
                expected: expected.into(),
                found: details.network,
            });
        }
        let refusal = |reason: &str| {
            Ok(Dispatch::Refused {
                reason: reason.into(),
            })
        };
        let amount_msat = match (details.amount_msat, request.amount_msat) {
            (Some(_), _) => None,
            (None, Some(amount_msat)) => match u64::try_from(amount_msat) {
                Ok(amount_msat) => Some(amount_msat),
                Err(_) => return refusal("the amount is negative"),
            },
            (None, None) => return refusal("the invoice has no amount"),
        };
        let Ok(max_fee_msat) = u64::try_from(request.max_fee_msat) else {
            return refusal("the fee limit is negative");
        };
        let invoice = Bolt11Invoice::from_str(request.bolt11.trim()).map_err(|error| {
            LightningError::BadInvoice {
                reason: error.to_string(),
            }
        })?;
        let max_lock_blocks = request.max_lock_blocks;
        self.call(move |node| pay(node, &invoice, amount_msat, max_fee_msat, max_lock_blocks))
            .await?
    }

    async fn payment(
        &self,
        payment_hash: PaymentHash,
    ) -> Result<Option<PaymentRecord>, LightningError> {
        self.call(move |node| {
            let details = node.payment(&PaymentId(payment_hash.0))?;
            payment_record(&details)
        })
        .await
    }

    async fn balances(&self) -> Result<NodeBalances, LightningError> {
        let mempool_has_records = self.shared.has_mempool_records();
        self.call(move |node| node_balances(node, mempool_has_records))
            .await
    }

    async fn inbound_capacity_msat(&self) -> Result<i64, LightningError> {
        self.call(inbound_capacity_msat).await
    }

    async fn best_block_height(&self) -> Result<Option<u32>, LightningError> {
        self.call(|node| Some(node.status().current_best_block.height))
            .await
    }

    async fn open_channels(&self) -> Result<Vec<OpenChannel>, LightningError> {
        self.call(closing::open_channels).await
    }

    async fn close_open_channel(&self, channel: &str, force: bool) -> Result<(), LightningError> {
        let id = closing::user_channel_id(channel)?;
        self.call(move |node| closing::close(node, id, force))
            .await?
    }

    async fn onchain_wallet(&self) -> Result<OnchainWallet, LightningError> {
        self.call(closing::onchain_wallet).await?
    }

    async fn send_all_onchain(
        &self,
        address: &str,
        fee_sat_per_kvb: Option<u64>,
    ) -> Result<String, LightningError> {
        let (address, fee) = closing::checked(address, fee_sat_per_kvb)?;
        self.call(move |node| {
            let wallet = node.onchain_payment();
            wallet.send_all_to_address(&address, true, fee)
        })
        .await?
        .map(|txid| txid.to_string())
        .map_err(node_error)
    }

    async fn next_event(&self) -> Result<LightningEvent, LightningError> {
        let moved = self.shared.moved.listen();
        let running = self.shared.running();
        let running = running.map_err(|_| self.shared.no_event())?;
        let Some(node) = &running.node.node else {
            return Err(LightningError::NotRunning);
        };
        let event = ldk_node::tokio::select! {
            event = node.next_event_async() => event,
            () = moved => return Err(self.shared.no_event()),
            () = running.fence.down() => return Err(self.shared.no_event()),
        };
        let told = if needs_more(&event) {
            // ldk-node tells these under locks that it holds while it writes: on the host's thread,
            // which the write may need, nothing would ever go on.
            let told = running.call(move |node| {
                let height = node.status().current_best_block.height;
                let details = received_payment(&event).and_then(|id| node.payment(&id));
                lightning_event(event, details.as_ref(), height)
            });
            told.await.map_err(|_| self.shared.no_event())?
        } else {
            // An outcome waits for nothing: whoever starts asks about those that are not told at once.
            lightning_event(event, None, 0)
        };
        *lock(&running.delivered) = true;
        Ok(told)
    }

    async fn recover(&self) -> Result<Vec<LostChannel>, LightningError> {
        let _one_at_a_time = self.shared.lifecycle.lock().await;
        self.refuse_while_it_runs()?;
        recovery::recover(self.config(), self.shared.state.as_ref()).await
    }

    async fn lost_channels(&self) -> Result<Vec<LostChannel>, LightningError> {
        let _one_at_a_time = self.shared.lifecycle.lock().await;
        self.refuse_while_it_runs()?;
        let (channels, _) = recovery::lost(self.config(), self.shared.state.as_ref()).await?;
        Ok(channels)
    }

    async fn acknowledge(&self) -> Result<(), LightningError> {
        let running = self.shared.running()?;
        if !std::mem::take(&mut *lock(&running.delivered)) {
            return Err(refused("no event was delivered since the last one"));
        }
        self.call(|node| node.event_handled())
            .await?
            .map_err(node_error)
    }
}
