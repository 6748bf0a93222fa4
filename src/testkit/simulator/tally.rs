//! How often everything happened: what never does is not tested.

use std::fmt;

macro_rules! counted {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $text:literal,)* }) => {
        $(#[$doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
        #[non_exhaustive]
        pub enum $name { $($(#[$variant_doc])* $variant,)* }

        impl $name {
            /// Every one there is.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// What a person reads.
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $text,)* }
            }
        }
    };
}

counted! {
    /// What goes wrong on purpose.
    Fault {
        /// The process dies between any two steps.
        Crash = "crash",
        /// It dies while a group is decided and not flushed.
        CrashBeforeFlush = "crash before the flush",
        /// It dies after the flush, before the answers.
        CrashAfterFlush = "crash after the flush, before the answer",
        /// It dies while it starts.
        CrashWhileStarting = "crash while starting",
        /// It is stopped and opened again.
        Restart = "stopped and opened again",
        /// A group fails, and nothing was changed.
        CommitFailed = "commit failed",
        /// A group was made, and its answers are lost.
        AnswerLost = "outcome unknown, made",
        /// A group was not made, and nobody knows.
        OutcomeUnknown = "outcome unknown, not made",
        /// Too many batches wait.
        StoreBusy = "store busy",
        /// A flush takes long.
        SlowFlush = "slow flush",
        /// A read fails.
        ReadFailed = "read failed",
        /// The node does not start.
        NodeNotStarted = "node not started",
        /// The node makes no invoice.
        InvoiceNotMade = "invoice not made by the node",
        /// A payment was sent, and the node does not say so.
        SentUnknown = "sent, outcome unknown",
        /// A payment was not sent, and the node does not say so.
        NotSentUnknown = "not sent, outcome unknown",
        /// The node refuses to send.
        SendRefused = "send refused",
        /// The node has no record of a payment that is on its way.
        RecordMissing = "record missing at the node",
        /// The node cannot be asked for a record.
        RecordUnknown = "record could not be asked for",
        /// A claim was made or not, and nobody knows.
        ClaimUnknown = "claim, outcome unknown",
        /// A payment goes back to its sender before it is claimed.
        TimedOut = "incoming payment timed out",
        /// An event comes late.
        EventLate = "event late",
        /// An event comes twice.
        EventTwice = "event told twice",
        /// A later event comes first.
        EventsReordered = "events reordered",
        /// An event that was told is lost in a crash, and told again.
        EventLost = "event lost in a crash, told again",
        /// That an event was dealt with is lost.
        AcknowledgementLost = "acknowledgement of an event lost",
        /// Blocks come to nothing.
        ChainReorged = "blocks reorged away",
        /// What was in them is spent twice.
        SpentTwice = "payment on chain spent twice in a reorg",
        /// A transaction takes the place of one that waits.
        ChainReplaced = "payment on chain replaced",
        /// One that was replaced or spent twice is there after all.
        ChainReturned = "payment on chain there after all",
        /// What is true of an output is told twice at once.
        FactTwice = "fact of the chain told twice",
        /// The clock jumps forward.
        ClockForward = "clock forward",
        /// The clock jumps back.
        ClockBack = "clock back",
        /// A command is sent again while the first one is on its way.
        SentTwice = "command sent twice at once",
        /// A command is sent again after its answer was lost.
        Retried = "command retried with the same key",
        /// A command is sent again after its answer came.
        RepeatedLater = "command repeated after its answer",
        /// A key is used for another request.
        KeyReused = "key used for another request",
        /// A tap is shown a second time.
        TapReplayed = "tap shown again",
        /// A PIN is guessed.
        PinGuessed = "PIN guessed",
        /// A tap that was looked at is charged later.
        TapLate = "tap charged after it was looked at",
        /// A till without a connection takes a tap.
        TakenOffline = "tap taken offline",
        /// Two tills take the same tap, or one takes a tap that was shown before.
        TapTakenTwice = "tap taken offline that another till has",
        /// The invoice of a payout is used for a second one.
        InvoiceReused = "payout of an invoice that was used",
        /// A batch is submitted again under its id.
        BatchAgain = "batch submitted again",
    }
}

counted! {
    /// What the books go through.
    Transition {
        /// A charge undone.
        ChargeRefunded = "charge refunded",
        /// Some of a charge undone.
        ChargeRefundedInPart = "charge refunded in part",
        /// Points of a sale that was undone.
        PointsTakenBack = "points taken back",
        /// A refund of an invoice intended.
        RefundSending = "refund sending",
        /// It is not known whether it was sent.
        RefundUnknown = "refund sending -> unknown",
        /// It arrived.
        RefundArrived = "refund succeeded",
        /// It failed.
        RefundFailed = "refund failed",
        /// A refund of an invoice to a card.
        RefundedToCard = "refund to a card",
        /// A refund to another invoice of the engine's.
        RefundedByBook = "refund by book",
        /// Capital booked.
        CapitalBooked = "capital booked",
        /// A merchant taken in.
        MerchantCreated = "merchant created",
        /// A till paired.
        TillPaired = "till paired",
        /// A till revoked.
        TillRevoked = "till revoked",
        /// A points program made.
        ProgramCreated = "program created",
        /// A card made.
        CardIssued = "card issued",
        /// A card handed over.
        CardActivated = "card issued -> active",
        /// A card stopped.
        CardFrozen = "card active -> frozen",
        /// A card in use again.
        CardUnfrozen = "card frozen -> active",
        /// A card in the place of another one.
        CardReplaced = "card -> replaced",
        /// A card that spends another one's balance.
        FamilyGrew = "family card added",
        /// What came to a card that was replaced.
        WentOn = "money of a replaced card went on",
        /// What its holder owed.
        DebtWentOn = "debt of a replaced card went on",
        /// A tap that was taken offline, paid.
        OfflinePaid = "offline tap paid",
        /// One that was used.
        OfflineUsedTap = "offline tap unpaid: used before",
        /// Handed in too late.
        OfflineTooLate = "offline tap unpaid: too late",
        /// More than a till may take a day.
        OfflineOverDay = "offline tap unpaid: over the day",
        /// The card had too little.
        OfflineUncovered = "offline tap not covered by the card",
        /// More than the card may.
        OfflineOverCardLimit = "offline tap unpaid: over the card's limit",
        /// More than the card may without its PIN.
        OfflineNeedsPin = "offline tap unpaid: the PIN is needed",
        /// The card was stopped.
        OfflineStopped = "offline tap unpaid: card stopped",
        /// A card's limits set.
        LimitsSet = "card limits set",
        /// A holder's credential renewed.
        HolderRenewed = "holder renewed",
        /// A sale paid with a card.
        Charged = "card charged",
        /// A tap looked at.
        Peeked = "tap looked at",
        /// A PIN given to a card.
        PinSet = "PIN set",
        /// A PIN that was right.
        PinRight = "PIN right",
        /// A wrong one counted.
        PinWrong = "PIN wrong, counted",
        /// Too many wrong ones.
        PinLocked = "PIN locked",
        /// To be tried again.
        PinUnlocked = "PIN unlocked",
        /// Money of a card set aside.
        TabOpened = "tab opened",
        /// All of it taken.
        TabCaptured = "tab captured",
        /// Some of it taken.
        TabCapturedInPart = "tab captured in part",
        /// Given back.
        TabReleased = "tab released",
        /// Over by itself.
        TabExpired = "tab expired",
        /// How a card is filled up.
        TopUpRuleSet = "auto top-up set",
        /// Filled up from another card.
        ToppedUp = "auto top-up made",
        /// The other card could not.
        TopUpFailed = "auto top-up failed",
        /// Somebody is to fill it up.
        TopUpWanted = "auto top-up wanted from outside",
        /// A card's payment intended.
        CardPaymentSending = "card payment sending",
        /// It is not known whether it was sent.
        CardPaymentUnknown = "card payment sending -> unknown",
        /// It arrived.
        CardPaymentSucceeded = "card payment succeeded",
        /// It failed.
        CardPaymentFailed = "card payment failed",
        /// An invoice of the engine's, paid in the books.
        CardPaidByBook = "card payment by book",
        /// Points given.
        PointsGiven = "points given",
        /// Points turned into money.
        PointsRedeemed = "points redeemed",
        /// An invoice made.
        InvoiceCreated = "invoice new",
        /// Its payment accepted.
        InvoiceProcessing = "invoice new -> processing",
        /// Its payment arrived.
        InvoiceSettled = "invoice processing -> settled",
        /// Its time is over.
        InvoiceExpired = "invoice new -> expired",
        /// A person gave up on its payment.
        InvoiceGivenUp = "invoice processing -> invalid",
        /// Set aside over the network for a hold invoice.
        HeldByNetwork = "held invoice: set aside over Lightning",
        /// Taken.
        HeldByNetworkTaken = "held invoice: captured over Lightning",
        /// To be given back, since its invoice was cancelled.
        HeldByNetworkCancelled = "held invoice: cancelled over Lightning",
        /// To be given back, since its deadline is near.
        HeldByNetworkOver = "held invoice: deadline near",
        /// Given back.
        HeldByNetworkReturned = "held invoice: given back over Lightning",
        /// Set aside in the books.
        HeldByBook = "held invoice: set aside by book",
        /// Taken.
        HeldByBookTaken = "held invoice: captured by book",
        /// Given back.
        HeldByBookReturned = "held invoice: cancelled by book",
        /// Given back when its time was over.
        HeldByBookOver = "held invoice: over by book",
        /// Ended before it was paid, or while its payment was set aside.
        InvoiceCancelled = "invoice -> cancelled",
        /// What had arrived is there no more.
        InvoiceUnsettled = "invoice settled -> open again",
        /// What was to arrive is there no more.
        InvoiceReopened = "invoice -> new again",
        /// Seen on chain.
        OnChainSeen = "payment on chain seen",
        /// Gone before it was booked.
        OnChainGone = "payment on chain gone before it was booked",
        /// Booked.
        OnChainBooked = "payment on chain booked",
        /// Came when its invoice was over.
        OnChainLate = "payment on chain late",
        /// Came into the merchant's own wallet.
        OnChainOfMerchant = "payment on chain to the merchant's own wallet",
        /// Too much, and somebody's by a rule.
        OnChainTip = "surplus on chain -> its owner",
        /// Too much, and nobody's.
        OnChainSurplus = "surplus on chain -> suspense",
        /// Taken away by the chain after it was booked.
        OnChainReorged = "payment on chain booked -> reorged",
        /// Booked after it was taken away.
        OnChainBookedAgain = "payment on chain reorged -> booked again",
        /// Taken back from whoever had it.
        ReorgTakenBack = "reorged credit taken back",
        /// It was spent, and is owed.
        ReorgOwed = "reorged credit spent, owed",
        /// What is owed, paid by what came in.
        OwedNetted = "owed netted from a later credit",
        /// What waited in suspense is there no more.
        SuspenseWithdrawn = "suspense withdrawn by a reorg",
        /// Money arrived that matches nothing.
        PaymentUnmatched = "payment unmatched -> suspense",
        /// Money left that matches nothing.
        PaymentUnexpected = "payment unexpected -> suspense",
        /// What waited in suspense was assigned.
        SuspenseAssigned = "suspense assigned",
        /// A payout intended.
        PayoutSending = "payout sending",
        /// It is not known whether it was sent.
        PayoutUnknown = "payout sending -> unknown",
        /// Paid out at once.
        PaidOut = "payout sending -> paid out",
        /// Paid out in the end.
        PaidOutAfterUnknown = "payout unknown -> paid out",
        /// Failed at once.
        PayoutFailed = "payout sending -> failed",
        /// Failed in the end.
        PayoutFailedAfterUnknown = "payout unknown -> failed",
        /// A person said what became of it.
        PayoutResolved = "payout resolved by a person",
        /// A plain transfer.
        Transfer = "ledger transfer",
        /// A balancing transfer.
        TransferUpTo = "ledger balancing transfer",
        /// Linked transfers.
        Linked = "ledger linked transfers",
        /// Money set aside.
        Held = "hold made",
        /// Money set aside that moved, in part.
        CapturedInPart = "hold captured in part",
        /// Money set aside that moved, and the rest given back.
        Captured = "hold captured, rest released",
        /// Money set aside given back.
        Released = "hold released",
        /// A hold that ended by itself.
        HoldExpired = "hold expired",
        /// A transfer undone.
        Reversed = "transfer reversed",
        /// A transfer undone of which some is owed now.
        ReversedOwing = "transfer reversed, rest owed",
        /// Usage counted.
        Used = "usage counted",
        /// Usage given back.
        GivenBack = "usage given back",
        /// A batch refused, and all of it left out.
        BatchRefused = "batch refused",
        /// A write of the node's state.
        NodeWrote = "node state written",
        /// A write of an epoch that has ended, refused.
        NodeFenced = "node write fenced",
        /// Several batches in one flush.
        Grouped = "several batches in one flush",
        /// A command answered again as it was.
        Replayed = "command answered as the first time",
        /// The answer of a command was forgotten.
        AnswerForgotten = "command.answer_forgotten",
        /// Refused as such.
        RefusedKeyReused = "command.key_reused",
        /// Refused as such.
        RefusedFunds = "card.insufficient_funds",
        /// Refused as such.
        RefusedLimit = "card.limit_exceeded",
        /// Refused as such.
        RefusedTaps = "card.too_many_taps",
        /// Refused as such.
        RefusedReplay = "card.tap_replayed",
        /// Refused as such.
        RefusedPaidAlready = "card.invoice_used",
        /// Refused as such.
        RefusedNotPayable = "invoice.not_payable",
        /// Refused as such.
        RefusedStale = "card.tap_stale",
        /// Refused as such.
        RefusedSuperseded = "card.tap_superseded",
        /// Refused as such.
        RefusedTabOver = "card.authorization_expired",
        /// Refused as such.
        RefusedTabEnded = "card.charge_not_open",
        /// Refused as such.
        RefusedTabExceeded = "card.capture_exceeds_hold",
        /// Refused as such.
        RefusedPinRequired = "card.pin_required",
        /// Refused as such.
        RefusedPinNotSet = "card.pin_not_set",
        /// Refused as such.
        RefusedPinWrong = "card.wrong_pin",
        /// Refused as such.
        RefusedPinLocked = "card.pin_locked",
        /// Refused as such.
        RefusedNotAuthorized = "invoice.not_authorized",
        /// Refused as such.
        RefusedNotMarkable = "invoice.not_markable",
        /// Refused as such.
        RefusedRefundExceeds = "refund.exceeds_paid",
        /// Refused as such.
        RefusedNothingLeft = "refund.nothing_left",
        /// Refused as such.
        RefusedChargeExceeds = "card.refund_exceeds_charge",
        /// Refused as such.
        RefusedNotCovered = "card.refund_not_covered",
        /// Refused as such.
        RefusedFrozen = "card.frozen",
        /// Refused as such.
        RefusedRevoked = "access.revoked",
        /// Refused as such.
        RefusedBalance = "settlement.insufficient_balance",
        /// Refused as such.
        RefusedInvoiceUsed = "settlement.invoice_used",
        /// Refused as such.
        RefusedPoints = "reward.insufficient_points",
        /// Refused as such.
        RefusedInFlight = "settlement.payout_in_flight",
    }
}

/// How often each fault and each transition happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Tally {
    faults: Vec<u64>,
    transitions: Vec<u64>,
}

impl Default for Tally {
    fn default() -> Self {
        Self {
            faults: vec![0; Fault::ALL.len()],
            transitions: vec![0; Transition::ALL.len()],
        }
    }
}

impl Tally {
    pub(super) fn fault(&mut self, fault: Fault) {
        if let Some(count) = self.faults.get_mut(fault as usize) {
            *count += 1;
        }
    }

    pub(super) fn transition(&mut self, transition: Transition) {
        if let Some(count) = self.transitions.get_mut(transition as usize) {
            *count += 1;
        }
    }

    /// Adds what happened in another run.
    pub fn add(&mut self, other: &Self) {
        for (count, more) in self.faults.iter_mut().zip(&other.faults) {
            *count += more;
        }
        for (count, more) in self.transitions.iter_mut().zip(&other.transitions) {
            *count += more;
        }
    }

    /// Everything by name, with how often it happened: faults first.
    pub fn rows(&self) -> impl Iterator<Item = (&'static str, u64)> {
        let faults = Fault::ALL.iter().map(|fault| fault.as_str());
        let transitions = Transition::ALL.iter().map(|transition| transition.as_str());
        let counts = self.faults.iter().chain(&self.transitions).copied();
        faults.chain(transitions).zip(counts)
    }

    /// What never happened.
    pub fn never(&self) -> Vec<&'static str> {
        let never = self.rows().filter(|(_, count)| *count == 0);
        never.map(|(name, _)| name).collect()
    }
}

impl fmt::Display for Tally {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (index, (name, count)) in self.rows().enumerate() {
            match index {
                0 => writeln!(f, "faults")?,
                _ if index == Fault::ALL.len() => writeln!(f, "transitions")?,
                _ => {}
            }
            writeln!(f, "{count:>12}  {name}")?;
        }
        Ok(())
    }
}
