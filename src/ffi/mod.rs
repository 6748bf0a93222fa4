//! The UniFFI facade: the engine as Kotlin, TypeScript, Swift and Python see it.
//!
//! Conversion only; nothing about money is decided here. Ids and credentials cross as text,
//! amounts as 64-bit integers with their unit in the name, and every error as a [`FlashError`].

mod error;
mod listener;
mod records;
mod requests;
#[cfg(feature = "testkit")]
mod simulated;

use std::str::FromStr;
use std::sync::{Arc, Mutex, PoisonError};

use tokio::runtime::Runtime;

use crate::access::Credential;
use crate::cards::{ActivateCard, FreezeCard, TopUpCard};
use crate::lightning::LightningNode;
use crate::money::Currency;
use crate::ports::{SystemClock, TokioExecutor};
use crate::rates::FixedRates;
use crate::rewards::RedeemPoints;
use crate::settlement::{CreateMerchant, PairTill, RequestPayout, RevokeTill};
use crate::store::sqlite::SqliteStore;
use crate::{Engine, IdempotencyKey, MasterSecret, Settings};

pub use error::{FlashError, ListenerError};
pub use listener::EventListener;
pub use records::*;
pub use requests::*;
#[cfg(feature = "testkit")]
pub use simulated::{SimulatedLightning, SimulatedWallet, VirtualBoltCard};

/// Where the books are and what they belong to.
#[derive(Clone, uniffi::Record)]
pub struct FlashkitConfig {
    /// The SQLite file; made if it is not there.
    pub database_path: String,
    /// 32 random bytes that the app keeps where the system keeps secrets.
    pub master_secret: Vec<u8>,
    /// `bitcoin`, `testnet`, `signet` or `regtest`.
    #[uniffi(default = "bitcoin")]
    pub network: String,
    /// Where the taps of new cards point, without scheme.
    #[uniffi(default = "localhost/boltcard")]
    pub tap_url: String,
}

/// The money engine.
#[derive(uniffi::Object)]
pub struct Flashkit {
    engine: Engine,
    rates: Arc<FixedRates>,
    listening: Mutex<Option<tokio::task::AbortHandle>>,
    /// Work runs here, whatever runtime or thread a call comes from.
    runtime: Mutex<Option<Runtime>>,
    handle: tokio::runtime::Handle,
}

impl Drop for Flashkit {
    fn drop(&mut self) {
        // Never waits: whoever wants to be sure calls `shutdown` first.
        let runtime = self
            .runtime
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .take();
        if let Some(runtime) = runtime {
            runtime.shutdown_background();
        }
    }
}

/// An id of any kind.
fn parse_id<T: FromStr<Err = crate::ids::ParseIdError>>(text: &str) -> Result<T, FlashError> {
    text.parse().map_err(|error: crate::ids::ParseIdError| {
        FlashError::new("input.bad_id", error.to_string(), false)
    })
}

fn credential(text: &str) -> Result<Credential, FlashError> {
    Ok(text.parse::<Credential>()?)
}

fn key(text: &str) -> Result<IdempotencyKey, FlashError> {
    Ok(text.parse::<IdempotencyKey>()?)
}

fn limit(limit: u32) -> usize {
    usize::try_from(limit).unwrap_or(usize::MAX)
}

fn runtime() -> Result<Runtime, FlashError> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .thread_name("flashkit")
        .enable_all()
        .build()
        .map_err(|error| FlashError::new("runtime.failed", error.to_string(), true))
}

impl Flashkit {
    /// Opens the books; with a node, if one is given.
    async fn open_with(
        config: FlashkitConfig,
        node: Option<Arc<dyn LightningNode>>,
    ) -> Result<Arc<Self>, FlashError> {
        let secret: [u8; 32] = config.master_secret.as_slice().try_into().map_err(|_| {
            let detail = "a master secret is 32 bytes".to_owned();
            FlashError::new("input.bad_secret", detail, false)
        })?;
        let runtime = runtime()?;
        let handle = runtime.handle().clone();
        let rates = Arc::new(FixedRates::new());
        let opened = handle.spawn(open_engine(
            config,
            secret,
            node,
            rates.clone(),
            handle.clone(),
        ));
        let engine = match opened.await {
            Ok(engine) => engine?,
            Err(error) => {
                return Err(FlashError::new("runtime.failed", error.to_string(), true));
            }
        };
        Ok(Arc::new(Self {
            engine,
            rates,
            listening: Mutex::default(),
            runtime: Mutex::new(Some(runtime)),
            handle,
        }))
    }
}

async fn open_engine(
    config: FlashkitConfig,
    secret: [u8; 32],
    node: Option<Arc<dyn LightningNode>>,
    rates: Arc<FixedRates>,
    handle: tokio::runtime::Handle,
) -> Result<Engine, FlashError> {
    let path = config.database_path;
    let open = move || SqliteStore::open(path, Arc::new(SystemClock));
    let store = match handle.spawn_blocking(open).await {
        Ok(store) => store?,
        Err(error) => return Err(FlashError::new("runtime.failed", error.to_string(), true)),
    };
    let settings = Settings {
        tap_url: config.tap_url,
        ..Settings::default()
    };
    let mut builder = Engine::builder(Arc::new(store), MasterSecret::new(secret))
        .network(&config.network)
        .rates(rates)
        .executor(Arc::new(TokioExecutor::new(handle)))
        .settings(settings);
    if let Some(node) = node {
        builder = builder.lightning(node);
    }
    Ok(builder.open().await?)
}

#[uniffi::export(async_runtime = "tokio")]
impl Flashkit {
    /// Opens the books without a node: everything works that stays in the books.
    #[uniffi::constructor]
    pub async fn open(config: FlashkitConfig) -> Result<Arc<Self>, FlashError> {
        Self::open_with(config, None).await
    }

    /// Starts the engine's own work and its node.
    pub async fn start(&self) -> Result<(), FlashError> {
        Ok(self.engine.start().await?)
    }

    /// Finishes what was begun and closes the books. Calls after it are refused as
    /// `store.closed`. Can be called again.
    pub async fn shutdown(&self) -> Result<(), FlashError> {
        self.clear_listener();
        Ok(self.engine.stop().await?)
    }

    /// The issuer's credential.
    pub fn issuer_credential(&self) -> String {
        self.engine.issuer().reveal().to_owned()
    }

    /// Says what one bitcoin costs: `rate` is decimal text, `observed_at_ms` when the source saw
    /// it.
    pub fn set_rate(
        &self,
        currency: String,
        rate: String,
        source: String,
        observed_at_ms: i64,
    ) -> Result<(), FlashError> {
        let currency = Currency::from_code(&currency)?;
        self.rates.set(
            currency,
            rate.parse::<crate::money::Rate>()?,
            &source,
            observed_at_ms,
        );
        Ok(())
    }

    /// Takes a merchant in. Issuer.
    pub async fn create_merchant(
        &self,
        credential: String,
        key: String,
        name: String,
        terms: PayoutTerms,
    ) -> Result<Merchant, FlashError> {
        let command = CreateMerchant {
            key: self::key(&key)?,
            name,
            terms: terms.into(),
        };
        Ok(self
            .engine
            .settlement()
            .create(&self::credential(&credential)?, command)
            .await?
            .into())
    }

    /// A merchant. Issuer, or one of its tills.
    pub async fn get_merchant(
        &self,
        credential: String,
        merchant_id: String,
    ) -> Result<Merchant, FlashError> {
        let merchant = parse_id(&merchant_id)?;
        Ok(self
            .engine
            .settlement()
            .get(&self::credential(&credential)?, merchant)
            .await?
            .into())
    }

    /// Gives a till its credential. Issuer.
    pub async fn pair_till(
        &self,
        credential: String,
        key: String,
        merchant_id: String,
        label: String,
    ) -> Result<PairedTill, FlashError> {
        let command = PairTill {
            key: self::key(&key)?,
            merchant: parse_id(&merchant_id)?,
            label,
        };
        let credential = self::credential(&credential)?;
        Ok(self
            .engine
            .settlement()
            .pair_till(&credential, command)
            .await?
            .into())
    }

    /// Takes a till's credential away. Issuer.
    pub async fn revoke_till(
        &self,
        credential: String,
        key: String,
        till_id: String,
    ) -> Result<(), FlashError> {
        let command = RevokeTill {
            key: self::key(&key)?,
            till: parse_id(&till_id)?,
        };
        let credential = self::credential(&credential)?;
        self.engine
            .settlement()
            .revoke_till(&credential, command)
            .await?;
        Ok(())
    }

    /// Makes an invoice.
    pub async fn create_invoice(
        &self,
        credential: String,
        request: CreateInvoiceRequest,
    ) -> Result<Invoice, FlashError> {
        let credential = self::credential(&credential)?;
        Ok(self
            .engine
            .invoices()
            .create(&credential, request.try_into()?)
            .await?
            .into())
    }

    /// An invoice as it stands now.
    pub async fn get_invoice(
        &self,
        credential: String,
        invoice_id: String,
    ) -> Result<Invoice, FlashError> {
        let invoice = parse_id(&invoice_id)?;
        Ok(self
            .engine
            .invoices()
            .get(&self::credential(&credential)?, invoice)
            .await?
            .into())
    }

    /// Invoices of a merchant or for a card, oldest first, after the invoice `after`.
    pub async fn list_invoices(
        &self,
        credential: String,
        purpose: InvoicePurpose,
        after: Option<String>,
        limit: u32,
    ) -> Result<Vec<Invoice>, FlashError> {
        let credential = self::credential(&credential)?;
        let after = after.as_deref().map(parse_id).transpose()?;
        let (purpose, limit) = (purpose.try_into()?, self::limit(limit));
        let page = self
            .engine
            .invoices()
            .list(&credential, purpose, after, limit)
            .await?;
        let as_of_ms = page.as_of_ms;
        let invoice = |value| Invoice::from(crate::Answer { as_of_ms, value });
        Ok(page.value.into_iter().map(invoice).collect())
    }

    /// Makes a card for a chip. Issuer.
    pub async fn issue_card(
        &self,
        credential: String,
        request: IssueCardRequest,
    ) -> Result<Card, FlashError> {
        let credential = self::credential(&credential)?;
        Ok(self
            .engine
            .cards()
            .issue(&credential, request.try_into()?)
            .await?
            .into())
    }

    /// What a card programmer writes on a chip; until the card is activated. Issuer.
    pub async fn programming_keys(
        &self,
        credential: String,
        uid: String,
    ) -> Result<ProgrammingKeys, FlashError> {
        let credential = self::credential(&credential)?;
        Ok(self
            .engine
            .cards()
            .programming_keys(&credential, &uid)
            .await?
            .into())
    }

    /// Hands a card over. Issuer.
    pub async fn activate_card(
        &self,
        credential: String,
        key: String,
        card_id: String,
    ) -> Result<Activation, FlashError> {
        let command = ActivateCard {
            key: self::key(&key)?,
            card: parse_id(&card_id)?,
        };
        Ok(self
            .engine
            .cards()
            .activate(&self::credential(&credential)?, command)
            .await?
            .into())
    }

    /// Stops a card. Its holder, or the issuer.
    pub async fn freeze_card(
        &self,
        credential: String,
        key: String,
        card_id: String,
    ) -> Result<Card, FlashError> {
        let command = FreezeCard {
            key: self::key(&key)?,
            card: parse_id(&card_id)?,
        };
        Ok(self
            .engine
            .cards()
            .freeze(&self::credential(&credential)?, command)
            .await?
            .into())
    }

    /// Lets a stopped card be used again. Its holder.
    pub async fn unfreeze_card(
        &self,
        credential: String,
        key: String,
        card_id: String,
    ) -> Result<Card, FlashError> {
        let command = FreezeCard {
            key: self::key(&key)?,
            card: parse_id(&card_id)?,
        };
        Ok(self
            .engine
            .cards()
            .unfreeze(&self::credential(&credential)?, command)
            .await?
            .into())
    }

    /// An invoice whose payment goes on the card.
    pub async fn top_up_card(
        &self,
        credential: String,
        key: String,
        card_id: String,
        price: Price,
    ) -> Result<Invoice, FlashError> {
        let (key, card) = (self::key(&key)?, parse_id(&card_id)?);
        let command = TopUpCard {
            key,
            card,
            price: price.try_into()?,
        };
        Ok(self
            .engine
            .cards()
            .top_up(&self::credential(&credential)?, command)
            .await?
            .into())
    }

    /// What a tap shows; it is not used up.
    pub async fn peek_card(&self, tap: String) -> Result<CardSnapshot, FlashError> {
        Ok(self.engine.cards().peek(&tap).await?.into())
    }

    /// A card as it stands now. Its holder, or the issuer.
    pub async fn get_card(
        &self,
        credential: String,
        card_id: String,
    ) -> Result<CardSnapshot, FlashError> {
        let card = parse_id(&card_id)?;
        Ok(self
            .engine
            .cards()
            .get(&self::credential(&credential)?, card)
            .await?
            .into())
    }

    /// Pays a sale with a tapped card. Tills.
    pub async fn charge_card(
        &self,
        credential: String,
        request: ChargeCardRequest,
    ) -> Result<Charge, FlashError> {
        let credential = self::credential(&credential)?;
        Ok(self
            .engine
            .cards()
            .charge(&credential, request.try_into()?)
            .await?
            .into())
    }

    /// What moved on a card, newest first, before the position `before`.
    pub async fn card_history(
        &self,
        credential: String,
        card_id: String,
        before: Option<i64>,
        limit: u32,
    ) -> Result<Vec<Transfer>, FlashError> {
        let (credential, card) = (self::credential(&credential)?, parse_id(&card_id)?);
        let limit = self::limit(limit);
        let page = self
            .engine
            .cards()
            .history(&credential, card, before, limit)
            .await?;
        Ok(page.value.into_iter().map(Into::into).collect())
    }

    /// Makes a points program. Issuer.
    pub async fn create_program(
        &self,
        credential: String,
        request: CreateProgramRequest,
    ) -> Result<Program, FlashError> {
        let credential = self::credential(&credential)?;
        Ok(self
            .engine
            .rewards()
            .create(&credential, request.try_into()?)
            .await?
            .into())
    }

    /// The points on a card.
    pub async fn points_balance(
        &self,
        credential: String,
        card_id: String,
        program_id: String,
    ) -> Result<PointsBalance, FlashError> {
        let (card, program) = (parse_id(&card_id)?, parse_id(&program_id)?);
        let credential = self::credential(&credential)?;
        Ok(self
            .engine
            .rewards()
            .points(&credential, card, program)
            .await?
            .into())
    }

    /// Turns points into money on the card. Its holder, or the issuer.
    pub async fn redeem_points(
        &self,
        credential: String,
        key: String,
        card_id: String,
        program_id: String,
        points: i64,
    ) -> Result<Redemption, FlashError> {
        let (card, program) = (parse_id(&card_id)?, parse_id(&program_id)?);
        let command = RedeemPoints {
            key: self::key(&key)?,
            card,
            program,
            points,
        };
        Ok(self
            .engine
            .rewards()
            .redeem(&self::credential(&credential)?, command)
            .await?
            .into())
    }

    /// What a merchant is owed. Issuer, or one of its tills.
    pub async fn merchant_balance(
        &self,
        credential: String,
        merchant_id: String,
    ) -> Result<MerchantBalance, FlashError> {
        let merchant = parse_id(&merchant_id)?;
        let credential = self::credential(&credential)?;
        Ok(self
            .engine
            .settlement()
            .balance(&credential, merchant)
            .await?
            .into())
    }

    /// What a payout of everything would come to.
    pub async fn quote_payout(
        &self,
        credential: String,
        merchant_id: String,
    ) -> Result<PayoutQuote, FlashError> {
        let merchant = parse_id(&merchant_id)?;
        let credential = self::credential(&credential)?;
        Ok(self
            .engine
            .settlement()
            .quote_payout(&credential, merchant)
            .await?
            .into())
    }

    /// Pays a merchant out to its own node. Issuer.
    pub async fn request_payout(
        &self,
        credential: String,
        key: String,
        merchant_id: String,
        bolt11: String,
    ) -> Result<Payout, FlashError> {
        let (key, merchant) = (self::key(&key)?, parse_id(&merchant_id)?);
        let command = RequestPayout {
            key,
            merchant,
            bolt11,
        };
        let credential = self::credential(&credential)?;
        Ok(self
            .engine
            .settlement()
            .request_payout(&credential, command)
            .await?
            .into())
    }

    /// A payout as it stands now.
    pub async fn get_payout(
        &self,
        credential: String,
        payout_id: String,
    ) -> Result<Payout, FlashError> {
        let payout = parse_id(&payout_id)?;
        Ok(self
            .engine
            .settlement()
            .payout(&self::credential(&credential)?, payout)
            .await?
            .into())
    }

    /// A merchant's payouts, oldest first, after the payout `after`.
    pub async fn list_payouts(
        &self,
        credential: String,
        merchant_id: String,
        after: Option<String>,
        limit: u32,
    ) -> Result<Vec<Payout>, FlashError> {
        let (credential, merchant) = (self::credential(&credential)?, parse_id(&merchant_id)?);
        let after = after.as_deref().map(parse_id).transpose()?;
        let limit = self::limit(limit);
        let page = self
            .engine
            .settlement()
            .payouts(&credential, merchant, after, limit)
            .await?;
        let as_of_ms = page.as_of_ms;
        let payout = |value| Payout::from(crate::Answer { as_of_ms, value });
        Ok(page.value.into_iter().map(payout).collect())
    }

    /// Books money that the operator put in or took out. Issuer.
    pub async fn book_capital(
        &self,
        credential: String,
        request: BookCapitalRequest,
    ) -> Result<(), FlashError> {
        let credential = self::credential(&credential)?;
        self.engine
            .treasury()
            .book_capital(&credential, request.try_into()?)
            .await?;
        Ok(())
    }

    /// The trial balance. Issuer.
    pub async fn trial_balance(&self, credential: String) -> Result<TrialBalance, FlashError> {
        Ok(self
            .engine
            .reports()
            .trial_balance(&self::credential(&credential)?)
            .await?
            .into())
    }

    /// The books beside the node. Issuer.
    pub async fn audit(&self, credential: String) -> Result<Audit, FlashError> {
        Ok(self
            .engine
            .reports()
            .audit(&self::credential(&credential)?)
            .await?
            .into())
    }

    /// The reader's next events; again until they are acknowledged. Issuer.
    pub async fn next_events(
        &self,
        credential: String,
        reader: String,
        limit: u32,
    ) -> Result<Vec<FlashEvent>, FlashError> {
        let (credential, limit) = (self::credential(&credential)?, self::limit(limit));
        let events = self
            .engine
            .events()
            .next(&credential, &reader, limit)
            .await?;
        Ok(events.into_iter().map(Into::into).collect())
    }

    /// The reader has dealt with everything up to this position. Issuer.
    pub async fn acknowledge_events(
        &self,
        credential: String,
        reader: String,
        position: i64,
    ) -> Result<(), FlashError> {
        let credential = self::credential(&credential)?;
        Ok(self
            .engine
            .events()
            .acknowledge(&credential, &reader, position)
            .await?)
    }

    /// Calls `listener` with every event from where it last got to, in order. An event whose call
    /// fails is told again. Takes the place of the listener before.
    pub fn set_listener(&self, listener: Arc<dyn EventListener>) {
        let task = self
            .handle
            .spawn(listener::run(self.engine.clone(), listener));
        self.put_listener(Some(task.abort_handle()));
    }

    /// Calls no listener any more.
    pub fn clear_listener(&self) {
        self.put_listener(None);
    }
}

impl Flashkit {
    fn put_listener(&self, task: Option<tokio::task::AbortHandle>) {
        let before = {
            let mut listening = self
                .listening
                .lock()
                .unwrap_or_else(PoisonError::into_inner);
            std::mem::replace(&mut *listening, task)
        };
        if let Some(before) = before {
            before.abort();
        }
    }
}
