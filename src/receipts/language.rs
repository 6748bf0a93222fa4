//! What stands on a receipt, on a button and on a link, in the languages of the shops.

use std::fmt;
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A language in which receipts and buttons are written. As text its ISO 639-1 code: `en`.
#[derive(
    Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize,
)]
#[serde(rename_all = "snake_case")]
pub enum Language {
    /// English.
    #[default]
    En,
    /// Spanish, with numbers as Latin America and the Caribbean write them.
    Es,
    /// French.
    Fr,
    /// Italian.
    It,
    /// Haitian Creole.
    Ht,
}

/// The text is no language that receipts are written in.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("a language is one of en, es, fr, it, ht")]
pub struct ParseLanguageError;

impl Language {
    /// All of them.
    pub const ALL: [Self; 5] = [Self::En, Self::Es, Self::Fr, Self::It, Self::Ht];

    /// Its ISO 639-1 code, which is its BCP 47 tag as well: `lang="ht"`.
    pub fn code(self) -> &'static str {
        match self {
            Self::En => "en",
            Self::Es => "es",
            Self::Fr => "fr",
            Self::It => "it",
            Self::Ht => "ht",
        }
    }

    /// A month as it is written between a day and a year; 1 is January.
    pub(super) fn month(self, month: i8) -> &'static str {
        let names = match self {
            Self::En => MONTHS_EN,
            Self::Es => MONTHS_ES,
            Self::Fr => MONTHS_FR,
            Self::It => MONTHS_IT,
            Self::Ht => MONTHS_HT,
        };
        let place = usize::try_from(month).unwrap_or(0).wrapping_sub(1);
        names.get(place).copied().unwrap_or("")
    }
}

impl fmt::Display for Language {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.code())
    }
}

impl FromStr for Language {
    type Err = ParseLanguageError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let found = Self::ALL.into_iter().find(|known| known.code() == text);
        found.ok_or(ParseLanguageError)
    }
}

const MONTHS_EN: [&str; 12] = [
    "Jan", "Feb", "Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec",
];
const MONTHS_ES: [&str; 12] = [
    "ene", "feb", "mar", "abr", "may", "jun", "jul", "ago", "sept", "oct", "nov", "dic",
];
const MONTHS_FR: [&str; 12] = [
    "janv.", "févr.", "mars", "avr.", "mai", "juin", "juil.", "août", "sept.", "oct.", "nov.",
    "déc.",
];
const MONTHS_IT: [&str; 12] = [
    "gen", "feb", "mar", "apr", "mag", "giu", "lug", "ago", "set", "ott", "nov", "dic",
];
const MONTHS_HT: [&str; 12] = [
    "jan", "fev", "mas", "avr", "me", "jen", "jiy", "out", "sept", "okt", "nov", "des",
];

macro_rules! labels {
    ($($(#[$doc:meta])* $name:ident = [$en:literal, $es:literal, $fr:literal, $it:literal, $ht:literal];)*) => {
        /// What a line is called. The texts may be mended at any time: a receipt keeps those that
        /// it was issued with.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        #[non_exhaustive]
        pub enum Label {
            $($(#[$doc])* $name,)*
        }

        impl Label {
            /// All of them.
            pub const ALL: &'static [Self] = &[$(Self::$name,)*];

            /// The label in a language.
            pub fn text(self, language: Language) -> &'static str {
                let [en, es, fr, it, ht] = match self {
                    $(Self::$name => [$en, $es, $fr, $it, $ht],)*
                };
                match language {
                    Language::En => en,
                    Language::Es => es,
                    Language::Fr => fr,
                    Language::It => it,
                    Language::Ht => ht,
                }
            }
        }
    };
}

labels! {
    /// The heading of a receipt.
    Receipt = ["Receipt", "Recibo", "Reçu", "Ricevuta", "Resi"];
    /// The heading of a receipt that says what became of an earlier one.
    Correction = ["Corrected receipt", "Recibo corregido", "Reçu rectificatif", "Ricevuta rettificata", "Resi korije"];
    /// Its number.
    Number = ["Receipt no.", "Recibo n.º", "Reçu n°", "Ricevuta n.", "Resi nº"];
    /// The number of the receipt that this one corrects.
    Corrects = ["Corrects no.", "Corrige el n.º", "Rectifie le n°", "Rettifica la n.", "Korije nº"];
    /// The number under which the seller is known to the tax office.
    TaxNumber = ["Tax no.", "N.º fiscal", "N° fiscal", "N. fiscale", "Nimewo fiskal"];
    /// When it was issued.
    Date = ["Date", "Fecha", "Date", "Data", "Dat"];
    /// What the seller calls the order.
    Order = ["Order", "Pedido", "Commande", "Ordine", "Kòmand"];
    /// What was sold, where there are no lines.
    Description = ["Description", "Descripción", "Description", "Descrizione", "Deskripsyon"];
    /// The lines without tax and tip.
    Subtotal = ["Subtotal", "Subtotal", "Sous-total", "Subtotale", "Sou-total"];
    /// Tax on top of the lines.
    Tax = ["Tax", "Impuesto", "Taxe", "Imposta", "Taks"];
    /// Tax that the prices of the lines have in them.
    TaxIncluded = ["Tax included", "Impuesto incluido", "Taxe comprise", "Imposta inclusa", "Taks ladan l"];
    /// The tip.
    Tip = ["Tip", "Propina", "Pourboire", "Mancia", "Poubwa"];
    /// Everything.
    Total = ["Total", "Total", "Total", "Totale", "Total"];
    /// What a price in a currency was in bitcoin.
    InBitcoin = ["In bitcoin", "En bitcoin", "En bitcoin", "In bitcoin", "An bitcoin"];
    /// The rate of a price in a currency.
    Rate = ["Rate", "Tipo de cambio", "Taux", "Cambio", "To chanj"];
    /// Who said so.
    RateSource = ["Rate from", "Fuente del cambio", "Source du taux", "Fonte del cambio", "Sous to chanj"];
    /// When that was observed.
    RateTime = ["Rate at", "Hora del cambio", "Heure du taux", "Ora del cambio", "Lè to chanj"];
    /// A payment, by no rail that is known.
    Payment = ["Payment", "Pago", "Paiement", "Pagamento", "Peman"];
    /// A payment over Lightning.
    Lightning = ["Lightning", "Lightning", "Lightning", "Lightning", "Lightning"];
    /// A payment on chain.
    OnChain = ["Bitcoin (on chain)", "Bitcoin (en cadena)", "Bitcoin (sur chaîne)", "Bitcoin (su catena)", "Bitcoin (sou chèn)"];
    /// A payment from a card or an account of the same engine.
    Book = ["Card or account", "Tarjeta o cuenta", "Carte ou compte", "Carta o conto", "Kat oswa kont"];
    /// When something was paid.
    PaidAt = ["Paid at", "Pagado el", "Payé le", "Pagato il", "Peye lè"];
    /// What a Lightning payment is known by.
    PaymentHash = ["Payment hash", "Hash de pago", "Hash du paiement", "Hash del pagamento", "Hash peman"];
    /// What a payment on chain is known by.
    Transaction = ["Transaction", "Transacción", "Transaction", "Transazione", "Tranzaksyon"];
    /// What a seller was paid otherwise: a person said that the invoice is paid.
    MarkedPaid = ["Marked as paid", "Marcado como pagado", "Marqué comme payé", "Segnato come pagato", "Make kòm peye"];
    /// What was paid beyond the price.
    Overpaid = ["Paid too much", "Pagado de más", "Trop-perçu", "Pagato in più", "Peye twòp"];
    /// What was not paid of the price.
    Underpaid = ["Not paid", "No pagado", "Non payé", "Non pagato", "Pa peye"];
    /// What was paid back.
    Refunded = ["Refunded", "Reembolsado", "Remboursé", "Rimborsato", "Ranbouse"];
    /// What was booked and then taken away by the chain.
    Reversed = ["Reversed", "Revertido", "Annulé", "Stornato", "Anile"];
    /// A card.
    Card = ["Card", "Tarjeta", "Carte", "Carta", "Kat"];
    /// What is on a card.
    CardBalance = ["Card balance", "Saldo de la tarjeta", "Solde de la carte", "Saldo della carta", "Balans kat la"];
    /// What a card had before.
    BalanceBefore = ["Balance before", "Saldo anterior", "Solde précédent", "Saldo precedente", "Balans anvan"];
    /// A sale that was paid with a card.
    Sale = ["Sale", "Venta", "Vente", "Vendita", "Vant"];
    /// Money that was put on a card.
    TopUp = ["Top-up", "Recarga", "Recharge", "Ricarica", "Rechaj"];
    /// Money of a sale that came back on a card.
    Refund = ["Refund", "Reembolso", "Remboursement", "Rimborso", "Ranbousman"];
    /// Money that was taken off a card.
    Withdrawal = ["Withdrawal", "Retiro", "Retrait", "Prelievo", "Retrè"];
    /// What came on a card.
    Received = ["Received", "Recibido", "Reçu", "Ricevuto", "Resevwa"];
    /// What of a refund stayed behind, because its points were spent.
    KeptForPoints = ["Kept for points", "Retenido por puntos", "Retenu pour points", "Trattenuto per punti", "Kenbe pou pwen"];
    /// Points of a purchase that was refunded.
    PointsTakenBack = ["Points taken back", "Puntos retirados", "Points repris", "Punti ritirati", "Pwen yo reprann"];
    /// What somebody takes for it.
    Fee = ["Fee", "Comisión", "Frais", "Commissione", "Frè"];
    /// Points of this purchase.
    PointsEarned = ["Points earned", "Puntos ganados", "Points gagnés", "Punti guadagnati", "Pwen ou fè"];
    /// All points there are.
    PointsBalance = ["Points balance", "Saldo de puntos", "Solde de points", "Saldo punti", "Balans pwen"];
    /// Points that were paid with.
    PointsRedeemed = ["Points redeemed", "Puntos canjeados", "Points utilisés", "Punti usati", "Pwen ou itilize"];
    /// The unit of points.
    Points = ["points", "puntos", "points", "punti", "pwen"];
    /// What a button asks for.
    Pay = ["Pay", "Pagar", "Payer", "Paga", "Peye"];
    /// What a link to a wallet says.
    OpenWallet = ["Open in a wallet", "Abrir en una billetera", "Ouvrir dans un portefeuille", "Apri in un portafoglio", "Ouvri nan yon bous"];
    /// What a QR code is for whoever does not see it.
    QrCode = ["QR code for paying", "Código QR para pagar", "Code QR pour payer", "Codice QR per pagare", "Kòd QR pou peye"];
    /// Whoever pays chooses how much.
    AnyAmount = ["Any amount", "Cualquier importe", "Montant libre", "Importo libero", "Nenpòt montan"];
    /// Nothing is to be paid any more: it was paid.
    Paid = ["Paid", "Pagado", "Payé", "Pagato", "Peye"];
    /// Nothing can be paid any more: its time is over.
    Expired = ["Expired", "Vencido", "Expiré", "Scaduto", "Ekspire"];
    /// Nothing is to be paid now: a payment is on its way.
    Processing = ["Payment on its way", "Pago en curso", "Paiement en cours", "Pagamento in corso", "Peman an ap fèt"];
    /// Nothing can be paid: somebody said so, or what came was too little.
    NotPayable = ["Cannot be paid", "No se puede pagar", "Ne peut pas être payé", "Non si può pagare", "Pa ka peye"];
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_label_is_there_in_every_language_and_can_be_printed() {
        assert!(Label::ALL.len() > 40);
        for label in Label::ALL {
            for language in Language::ALL {
                let text = label.text(language);
                assert!(!text.is_empty() && text.chars().count() <= 28, "{label:?}");
                // Latin-1: what the code pages of receipt printers have.
                assert!(text.chars().all(|c| u32::from(c) < 256), "{text}");
            }
        }
    }

    #[test]
    fn a_language_reads_back_as_written() {
        for language in Language::ALL {
            assert_eq!(language.to_string().parse(), Ok(language));
            let json = serde_json::to_string(&language).unwrap();
            assert_eq!(json, format!("\"{language}\""));
            assert!((1..=12).all(|month| !language.month(month).is_empty()));
        }
        for text in ["", "EN", "de", "en-JM"] {
            assert_eq!(text.parse::<Language>(), Err(ParseLanguageError));
        }
    }
}
