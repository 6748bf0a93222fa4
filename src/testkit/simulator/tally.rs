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
        /// The invoice of a payout is used for a second one.
        InvoiceReused = "payout of an invoice that was used",
        /// A batch is submitted again under its id.
        BatchAgain = "batch submitted again",
    }
}

counted! {
    /// What the books go through.
    Transition {
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
        /// A card's limits set.
        LimitsSet = "card limits set",
        /// A holder's credential renewed.
        HolderRenewed = "holder renewed",
        /// A sale paid with a card.
        Charged = "card charged",
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
