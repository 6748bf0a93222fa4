//! The day, step by step. Every command has a key that says which day and which step it is, so
//! that doing a step again is the same step.

use std::fs;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use flashkit::access::Credential;
use flashkit::cards::{
    ActivateCard, CardLimits, ChargeCard, IssueCard, ProgrammingKeys, TopUpCard,
};
use flashkit::ids::{CardId, MerchantId, ProgramId};
use flashkit::invoices::{CreateInvoice, Invoice, InvoiceOptions, InvoicePurpose, InvoiceState};
use flashkit::lightning::ldk::LdkNode;
use flashkit::lightning::{Bolt11Details, LightningNode, PaymentState};
use flashkit::money::{Asset, Currency, Price, Rate, format_minor};
use flashkit::ports::{Clock, Entropy, SystemClock, SystemEntropy};
use flashkit::rates::FixedRates;
use flashkit::rewards::{CreateProgram, RedeemPoints};
use flashkit::settlement::{
    CreateMerchant, PairTill, Payout, PayoutOutcome, PayoutState, PayoutTerms, RequestPayout,
    ResolvePayout,
};
use flashkit::testkit::chain::{EsploraServer, RegtestChain};
use flashkit::testkit::local_network::{self, LocalNode};
use flashkit::testkit::virtual_card::VirtualCard;
use flashkit::testkit::wallet::Wallet;
use flashkit::treasury::{BookCapital, CapitalAccount, CapitalDirection};
use flashkit::{Engine, IdempotencyKey, MasterSecret};

use crate::notebook::Notebook;
use crate::print::Printer;
use crate::{Failure, Nodes, Options};

const UID: &str = "04a39493cc8680";
const RATE: &str = "15600000.00";
/// How long a payment is waited for.
const PATIENCE: Duration = Duration::from_secs(60);

/// Everybody who takes part.
struct Story {
    print: Printer,
    notes: Notebook,
    day: u32,
    engine: Engine,
    operator: Arc<LdkNode>,
    world: Arc<LdkNode>,
    customer: Arc<Wallet>,
    _chain: EsploraServer,
}

/// The merchant, as the engine knows it.
struct Shop {
    merchant: MerchantId,
    till: Credential,
    program: ProgramId,
}

/// The card in the customer's hand.
struct Card {
    id: CardId,
    holder: Credential,
}

pub async fn run(options: &Options, nodes: &Nodes) -> Result<(), Failure> {
    let mut story = open(options, nodes).await?;
    let shop = story.open_shop().await?;
    story.sell(&shop).await?;
    let card = story.hand_over_card().await?;
    story.top_up(&card).await?;
    story.tap_and_charge(&shop, &card).await?;
    story.redeem(&shop, &card).await?;
    story.pay_out(&shop).await?;
    story.close_the_books(options).await
}

async fn open(options: &Options, nodes: &Nodes) -> Result<Story, Failure> {
    let folder = options.folder.as_path();
    if options.fresh && folder.exists() {
        forget(folder)?;
    }
    fs::create_dir_all(folder)?;
    println!(
        "flashkit quickstart · data in {}",
        fs::canonicalize(folder)?.display()
    );

    let currency = Currency::from_code("JMD")?;
    let rate: Rate = RATE.parse()?;
    let print = Printer::new(currency, rate);
    let rates = FixedRates::new();
    rates.set(currency, rate, "quickstart", SystemClock.now_ms());

    print.progress("starting a regtest chain in this process");
    let chain = Arc::new(RegtestChain::open(&folder.join("chain"))?)
        .serve()
        .await?;
    print.progress("opening the operator's books and node, and the node of the world");
    let master = master_secret(&folder.join("secret"))?;
    let endpoint = flashkit::testkit::chain::TestChain::source(&chain);
    let file = folder.join("operator.db");
    let operator = LocalNode::open(&file, *master.node_entropy(), endpoint.clone())?;
    let world = LocalNode::open(&folder.join("world.db"), [9; 64], endpoint)?;
    nodes.add(&operator.node);
    nodes.add(&world.node);
    let engine = Engine::builder(Arc::new(operator.store.clone()), master)
        .lightning(operator.node.clone())
        .network("regtest")
        .rates(Arc::new(rates))
        .open()
        .await?;
    engine.start().await?;
    world.node.start().await?;
    let customer = Arc::new(Wallet::new(
        world.node.clone(),
        Some(&folder.join("preimages")),
    ));
    tokio::spawn(customer.clone().run());
    local_network::connect(
        &chain,
        &operator.node,
        &operator.address,
        &world.node,
        |what| {
            print.progress(what);
        },
    )
    .await?;
    print.progress("ready");

    let notes = Notebook::open(&folder.join("notebook.json"))?;
    let day = notes.read("day")?.unwrap_or(1);
    let (operator, world) = (operator.node, world.node);
    Ok(Story {
        print,
        notes,
        day,
        engine,
        operator,
        world,
        customer,
        _chain: chain,
    })
}

/// Takes away what an earlier run left, and nothing else that may lie in the folder.
fn forget(folder: &Path) -> Result<(), Failure> {
    for name in ["chain", "preimages"] {
        let path = folder.join(name);
        if path.exists() {
            fs::remove_dir_all(path)?;
        }
    }
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        let name = path
            .file_name()
            .and_then(|name| name.to_str())
            .unwrap_or_default();
        let ours = ["operator.db", "world.db", "notebook.", "secret"];
        if ours.iter().any(|ours| name.starts_with(ours)) {
            fs::remove_file(path)?;
        }
    }
    Ok(())
}

/// A product keeps this where the system keeps secrets; play money may lie in a file.
fn master_secret(file: &Path) -> Result<MasterSecret, Failure> {
    let mut bytes = [0; 32];
    if file.exists() {
        hex::decode_to_slice(fs::read_to_string(file)?.trim(), &mut bytes)?;
    } else {
        SystemEntropy.fill(&mut bytes)?;
        let new = file.with_extension("new");
        fs::write(&new, hex::encode(bytes))?;
        fs::rename(new, file)?;
    }
    Ok(MasterSecret::new(bytes))
}

impl Story {
    /// The key of a step: of today, or of the one time that it is done.
    fn key(&self, step: &str) -> Result<IdempotencyKey, Failure> {
        Ok(format!("day-{}/{step}", self.day).parse()?)
    }

    /// The key of a step that asks for an invoice: another one once an invoice ran out of time,
    /// as it does when this program was stopped before it was paid.
    fn attempt(&self, step: &str) -> Result<String, Failure> {
        let page = format!("day-{}/{step}/attempt", self.day);
        let attempt: u32 = self.notes.read(&page)?.unwrap_or(1);
        Ok(format!("day-{}/{step}/{attempt}", self.day))
    }

    fn next_attempt(&mut self, step: &str) -> Result<(), Failure> {
        let page = format!("day-{}/{step}/attempt", self.day);
        let attempt: u32 = self.notes.read(&page)?.unwrap_or(1);
        self.notes.write(&page, &(attempt + 1))
    }

    fn sats(amount: i64) -> Price {
        Price::Bitcoin {
            amount_msat: amount * 1_000,
        }
    }

    fn jmd(&self, minor_units: i64) -> Result<Price, Failure> {
        Ok(Price::Fiat {
            currency: Currency::from_code("JMD")?,
            minor_units,
        })
    }

    async fn open_shop(&mut self) -> Result<Shop, Failure> {
        let Self { engine, print, .. } = self;
        let issuer = engine.issuer();
        print.step(&format!(
            "Day {}: the operator opens the shop's account",
            self.day
        ));
        // What the operator put in is said once, as it was before any business.
        let capital: (i64, i64) = self
            .notes
            .keep("capital", async || {
                let has = self.operator.balances().await?;
                Ok((has.channels_msat, has.onchain_msat))
            })
            .await?;
        for (account, name, amount_msat) in [
            (CapitalAccount::Channels, "channels", capital.0),
            (CapitalAccount::Onchain, "onchain", capital.1),
        ] {
            let command = BookCapital {
                key: format!("capital/{name}").parse()?,
                account,
                direction: CapitalDirection::In,
                amount_msat,
                reason: "the operator's own money".to_owned(),
            };
            engine.treasury().book_capital(&issuer, command).await?;
        }
        print.say(&format!(
            "The operator's own money: {} in its channel,",
            print.money(capital.0)
        ));
        print.say(&format!("and {} on chain.", print.money(capital.1)));

        let command = CreateMerchant {
            key: "merchant".parse()?,
            name: "Miss Lou's Cookshop".to_owned(),
            terms: PayoutTerms::default(),
            category: None,
        };
        let merchant = engine.settlement().create(&issuer, command).await?.id;
        let command = PairTill {
            key: "till".parse()?,
            merchant,
            label: "till 1".to_owned(),
        };
        let till = engine
            .settlement()
            .pair_till(&issuer, command)
            .await?
            .credential
            .clone();
        let command = CreateProgram {
            key: "program".parse()?,
            merchant,
            name: "Cookshop points".to_owned(),
            earn_bps: 200,
            point_value_msat: 1_000,
        };
        let program = engine.rewards().create(&issuer, command).await?.id;
        print.say("Miss Lou's Cookshop has an account, a till, and points worth 2 % of a sale.");
        Ok(Shop {
            merchant,
            till,
            program,
        })
    }

    async fn sell(&mut self, shop: &Shop) -> Result<(), Failure> {
        self.print
            .step("A customer buys two patties and pays over Lightning");
        loop {
            let command = CreateInvoice {
                key: self.attempt("sale")?.parse()?,
                purpose: InvoicePurpose::Sale {
                    merchant: shop.merchant,
                },
                price: Some(self.jmd(156_000)?),
                description: "Two patties and a coco bread".to_owned(),
                expiry_seconds: 600,
                options: InvoiceOptions::default(),
            };
            let invoices = self.engine.invoices();
            let invoice = invoices.create(&shop.till, command).await?.value;
            self.show(&invoice)?;
            if self.pay(&invoice).await? {
                return self.say_balance(shop).await;
            }
            self.next_attempt("sale")?;
        }
    }

    fn show(&self, invoice: &Invoice) -> Result<(), Failure> {
        let print = &self.print;
        print.say(&format!(
            "The till asks for J$1,560.00: {}.",
            print.money(invoice.amount_msat)
        ));
        if let Some(quote) = &invoice.quote {
            print.say(&format!(
                "Recorded rate: one bitcoin is J${} ({}).",
                quote.rate, quote.source
            ));
        }
        print.qr(&invoice.bolt11)
    }

    /// The customer pays, unless that was done before; then it is waited for. False when the
    /// invoice ran out of time.
    async fn pay(&self, invoice: &Invoice) -> Result<bool, Failure> {
        let issuer = self.engine.issuer();
        let mut asked = false;
        let patience = Instant::now() + PATIENCE;
        loop {
            let now = self.engine.invoices().get(&issuer, invoice.id).await?;
            match now.state {
                InvoiceState::Settled => break,
                InvoiceState::Expired => {
                    self.print
                        .say("It ran out of time before it was paid: here is another.");
                    return Ok(false);
                }
                InvoiceState::New if now.expires_at_ms <= SystemClock.now_ms() => {}
                InvoiceState::New if !asked => {
                    self.customer.send(&invoice.bolt11).await?;
                    asked = true;
                }
                InvoiceState::New | InvoiceState::Processing => {}
                InvoiceState::Invalid => return Err("less arrived than was accepted".into()),
            }
            if Instant::now() > patience {
                let state = now.state;
                return Err(format!("the invoice is still {state:?} after a minute").into());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
        }
        self.print.say(&format!(
            "Paid, and booked once: {}.",
            self.print.money(invoice.amount_msat)
        ));
        Ok(true)
    }

    async fn say_balance(&self, shop: &Shop) -> Result<(), Failure> {
        let balance = self
            .engine
            .settlement()
            .balance(&shop.till, shop.merchant)
            .await?;
        self.print.say(&format!(
            "The cookshop is owed {}.",
            self.print.money(balance.owed_msat)
        ));
        Ok(())
    }

    async fn hand_over_card(&mut self) -> Result<Card, Failure> {
        self.print.step("The customer gets a card");
        let (cards, issuer) = (self.engine.cards(), self.engine.issuer());
        let command = IssueCard {
            key: "card".parse()?,
            uid: UID.to_owned(),
            existing_chip: None,
            limits: CardLimits {
                per_day: Some(1_000_000_000),
                time_zone: "America/Jamaica".to_owned(),
                ..CardLimits::default()
            },
            program: None,
        };
        let id = cards.issue(&issuer, command).await?.id;
        // The programmer writes the keys on the chip; after activation nobody is told them.
        self.notes
            .keep("chip", async || {
                Ok(cards.programming_keys(&issuer, UID).await?)
            })
            .await?;
        let command = ActivateCard {
            key: "activation".parse()?,
            card: id,
        };
        let activation = cards.activate(&issuer, command).await?;
        self.print
            .say("Issued, programmed and activated: at most 1,000,000 sat a day, Jamaican time.");
        Ok(Card {
            id,
            holder: activation.holder.clone(),
        })
    }

    async fn top_up(&mut self, card: &Card) -> Result<(), Failure> {
        self.print
            .step("The customer tops the card up over Lightning");
        loop {
            let command = TopUpCard {
                key: self.attempt("top-up")?.parse()?,
                card: card.id,
                price: Self::sats(50_000),
            };
            let cards = self.engine.cards();
            let invoice = cards.top_up(&card.holder, command).await?.value;
            if self.pay(&invoice).await? {
                break;
            }
            self.next_attempt("top-up")?;
        }
        let balance = self
            .engine
            .cards()
            .get(&card.holder, card.id)
            .await?
            .balance_msat;
        self.print
            .say(&format!("On the card: {}.", self.print.money(balance)));
        Ok(())
    }

    /// What the chip shows: kept by the till before it is sent, so that a retry is the same tap.
    fn tap(&mut self) -> Result<String, Failure> {
        let page = format!("day-{}/tap", self.day);
        if let Some(tap) = self.notes.read(&page)? {
            return Ok(tap);
        }
        let keys: ProgrammingKeys = self.notes.read("chip")?.ok_or("the chip has no keys")?;
        let mut chip = VirtualCard::program(UID, &keys)?;
        chip.set_counter(self.notes.read("chip-counter")?.unwrap_or(0));
        let tap = chip.tap();
        self.notes.write("chip-counter", &chip.counter())?;
        self.notes.write(&page, &tap)?;
        Ok(tap)
    }

    async fn tap_and_charge(&mut self, shop: &Shop, card: &Card) -> Result<(), Failure> {
        self.print.step("The customer taps for lunch");
        let tap = self.tap()?;
        let command = ChargeCard {
            key: self.key("charge")?,
            tap,
            price: self.jmd(312_000)?,
            reference: "table 4".to_owned(),
            pin: None,
        };
        let (cards, print) = (self.engine.cards(), &self.print);
        let charge = cards.charge(&shop.till, command.clone()).await?;
        print.say(&format!(
            "One tap: {} from the card to the cookshop,",
            print.money(charge.amount_msat)
        ));
        print.say(&format!(
            "and {} points for the customer, in the same commit.",
            charge.points
        ));
        let again = ChargeCard {
            key: self.key("charge-again")?,
            ..command
        };
        match cards.charge(&shop.till, again).await {
            Err(refused) => print.say(&format!(
                "The same tap again is refused: {}.",
                refused.code()
            )),
            Ok(_) => return Err("a tap was charged twice".into()),
        }
        let balance = cards.get(&card.holder, card.id).await?.balance_msat;
        print.say(&format!("On the card: {}.", print.money(balance)));
        self.say_balance(shop).await
    }

    async fn redeem(&mut self, shop: &Shop, card: &Card) -> Result<(), Failure> {
        self.print.step("The customer turns the points into money");
        let (rewards, program) = (self.engine.rewards(), shop.program);
        let page = format!("day-{}/points", self.day);
        let points: i64 = self
            .notes
            .keep(&page, async || {
                Ok(rewards.points(&card.holder, card.id, program).await?.points)
            })
            .await?;
        let command = RedeemPoints {
            key: self.key("redemption")?,
            card: card.id,
            program,
            points,
        };
        let redeemed = rewards.redeem(&card.holder, command).await?;
        let (points, money) = (redeemed.points, self.print.money(redeemed.amount_msat));
        self.print
            .say(&format!("{points} points became {money} on the card."));
        Ok(())
    }

    async fn pay_out(&mut self, shop: &Shop) -> Result<(), Failure> {
        self.print
            .step("The cookshop is paid out to its own Lightning node");
        let payout = loop {
            if let Some(payout) = self.try_payout(shop).await? {
                break payout;
            }
            self.print
                .say("That invoice was of no use any more: the cookshop makes another.");
            self.next_attempt("payout")?;
        };
        let print = &self.print;
        print.say(&format!("Paid out: {},", print.money(payout.amount_msat)));
        print.say(&format!(
            "less the operator's fee of {},",
            print.money(payout.fee_msat)
        ));
        let route = format_minor(Asset::Btc, payout.route_fee_msat.unwrap_or(0));
        print.say(&format!(
            "out of which the operator paid {route} for the route."
        ));
        self.say_balance(shop).await
    }

    /// One invoice of the cookshop's own node, paid; `None` when another one is needed.
    async fn try_payout(&mut self, shop: &Shop) -> Result<Option<Payout>, Failure> {
        let settlement = self.engine.settlement();
        let key = self.attempt("payout")?;
        let bolt11: String = self
            .notes
            .keep(&key, async || {
                let quote = settlement.quote_payout(&shop.till, shop.merchant).await?;
                Ok(self
                    .customer
                    .invoice(quote.amount_msat, "The day's takings")
                    .await?)
            })
            .await?;
        let issuer = self.engine.issuer();
        let command = RequestPayout {
            key: key.parse()?,
            merchant: shop.merchant,
            bolt11: bolt11.clone(),
        };
        let requested = settlement.request_payout(&issuer, command).await;
        let mut payout = match requested {
            Err(refused) if refused.code() == "settlement.invoice_expired" => return Ok(None),
            requested => requested?.value,
        };
        let patience = Instant::now() + PATIENCE;
        while !payout.state.is_final() {
            if payout.state == PayoutState::Unknown {
                self.ask_the_cookshop(&payout, &bolt11).await?;
            }
            if Instant::now() > patience {
                let state = payout.state;
                return Err(format!("the payout is still {state:?} after a minute").into());
            }
            tokio::time::sleep(Duration::from_millis(20)).await;
            payout = settlement.payout(&issuer, payout.id).await?.value;
        }
        Ok((payout.state == PayoutState::PaidOut).then_some(payout))
    }

    /// This program was stopped between the intent and the sending, and the invoice ran out of
    /// time since: the operator's node can neither send nor tell. A person asks the cookshop.
    async fn ask_the_cookshop(&self, payout: &Payout, bolt11: &str) -> Result<(), Failure> {
        let invoice: Bolt11Details = bolt11.parse()?;
        let record = self.world.payment(invoice.payment_hash).await?;
        let arrived = record.is_some_and(|record| record.state == PaymentState::Succeeded);
        if arrived || SystemClock.now_ms() < invoice.expires_at_ms {
            return Ok(());
        }
        let command = ResolvePayout {
            key: format!("resolve/{}", payout.id).parse()?,
            payout: payout.id,
            outcome: PayoutOutcome::Failed,
            reason: "the invoice expired, and the cookshop's node has nothing".to_owned(),
            despite_record: false,
        };
        let settlement = self.engine.settlement();
        settlement
            .resolve_payout(&self.engine.issuer(), command)
            .await?;
        Ok(())
    }

    async fn close_the_books(mut self, options: &Options) -> Result<(), Failure> {
        self.print.step("The books");
        self.print.trial_balance(&self.engine).await?;
        // The node may still be finishing the last payment with its peer.
        let patience = Instant::now() + PATIENCE;
        let audit = loop {
            let audit = self
                .engine
                .reports()
                .audit(&self.engine.issuer())
                .await?
                .value;
            let mut controls = audit.controls.iter();
            let agrees =
                audit.untied.is_empty() && controls.all(|control| control.difference_msat == 0);
            if agrees || Instant::now() > patience {
                break audit;
            }
            tokio::time::sleep(Duration::from_millis(50)).await;
        };
        for control in &audit.controls {
            let (booked, actual) = (control.booked_msat, control.actual_msat);
            let (booked, actual) = (
                format_minor(Asset::Btc, booked),
                format_minor(Asset::Btc, actual),
            );
            let kind = control.account.kind();
            self.print.say(&format!(
                "{kind}: the books say {booked}, the node has {actual}."
            ));
            if control.difference_msat != 0 {
                return Err(format!("{kind} does not agree with the node").into());
            }
        }
        if options.trace {
            self.print
                .step("Payments by their hashes, as each node has them");
            self.print
                .trace("the operator's node:", &self.operator)
                .await?;
            self.print.trace("the world's node:", &self.world).await?;
        }
        self.notes.write("day", &(self.day + 1))?;
        self.engine.stop().await?;
        self.world.stop().await?;
        self.print
            .progress("done; run it again to go on with the next day");
        Ok(())
    }
}
