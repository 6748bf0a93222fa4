//! What every source does alike when it looks.

use std::collections::{BTreeMap, BTreeSet};

use async_trait::async_trait;
use bitcoin::{Script, Txid};

use super::answers::Placed;
use super::{
    BlockId, ChainError, ChainSource, KnownTransaction, Missed, SeenTransaction, View, Watch,
};

/// After so many questions in a row without any answer no more are asked in one look: the server is
/// away, or wants to be asked less. What it answers that it does not want to tell does not count.
const PATIENCE: usize = 3;

/// A source with an index by script.
#[async_trait]
pub(super) trait Indexed: ChainSource {
    /// The whole history of a script.
    async fn history(&self, script: &Script) -> Result<Vec<Placed>, ChainError>;

    /// Where a transaction is that no history has, and what spends its coins instead.
    async fn traces(&self, known: &KnownTransaction) -> Result<Vec<Placed>, ChainError>;
}

/// Looks for one script after the other: one that the server does not tell of is left out, and so
/// is what follows when it stops answering.
pub(super) async fn look_by_script(
    source: &dyn Indexed,
    watch: &Watch,
    tip: BlockId,
) -> Result<View, ChainError> {
    let mut looked = Looked::of(watch);
    for script in &watch.scripts {
        match looked.ask(source, source.history(script)).await? {
            Said::Told => {}
            Said::Not(error) => looked.missed.scripts.push((script.clone(), error)),
            Said::Unasked => looked.missed.unasked.push(script.clone()),
        }
    }
    for known in &watch.known {
        if looked.places.contains_key(&known.txid) {
            continue;
        }
        if !matches!(looked.ask(source, source.traces(known)).await?, Said::Told) {
            looked.missed.transactions.insert(known.txid);
        }
    }
    Ok(looked.view(tip))
}

/// What came of a question.
enum Said {
    Told,
    Not(ChainError),
    Unasked,
}

/// What was found so far.
struct Looked {
    known: BTreeSet<Txid>,
    places: BTreeMap<Txid, Option<BlockId>>,
    seen: BTreeMap<Txid, SeenTransaction>,
    missed: Missed,
    /// How many questions in a row had no answer.
    unanswered: usize,
}

impl Looked {
    fn of(watch: &Watch) -> Self {
        Self {
            known: watch.known.iter().map(|known| known.txid).collect(),
            places: BTreeMap::new(),
            seen: BTreeMap::new(),
            missed: Missed::default(),
            unanswered: 0,
        }
    }

    /// Asks where transactions are, and for those of them that were not seen before.
    async fn ask(
        &mut self,
        source: &dyn Indexed,
        places: impl Future<Output = Result<Vec<Placed>, ChainError>> + Send,
    ) -> Result<Said, ChainError> {
        if self.unanswered >= PATIENCE {
            return Ok(Said::Unasked);
        }
        let answered = match places.await {
            Ok(places) => self.fetch(source, places).await,
            Err(error) => Err(error),
        };
        self.unanswered = match answered {
            Err(ChainError::Moved) => return Err(ChainError::Moved),
            Err(ChainError::Unreachable { .. }) => self.unanswered.saturating_add(1),
            _ => 0,
        };
        Ok(answered.map_or_else(Said::Not, |()| Said::Told))
    }

    /// All of it, or nothing: of half a history nothing is concluded.
    async fn fetch(&mut self, source: &dyn Indexed, places: Vec<Placed>) -> Result<(), ChainError> {
        let mut fetched = Vec::new();
        for (txid, block) in &places {
            if self.known.contains(txid) || self.seen.contains_key(txid) {
                continue;
            }
            let question = "a transaction";
            // Gone between two questions, perhaps: the next look tells.
            let transaction = source.transaction(*txid, None).await?;
            let transaction = transaction.ok_or(ChainError::BadAnswer { question })?;
            let block = *block;
            fetched.push((*txid, SeenTransaction { transaction, block }));
        }
        self.places.extend(places);
        self.seen.extend(fetched);
        Ok(())
    }

    fn view(mut self, tip: BlockId) -> View {
        let places = &self.places;
        self.missed
            .transactions
            .retain(|txid| !places.contains_key(txid));
        let standing = self.known.iter().filter_map(|txid| {
            let place = places.get(txid)?;
            Some((*txid, *place))
        });
        View {
            tip,
            through: tip,
            standing: standing.collect(),
            seen: self.seen.into_values().collect(),
            missed: self.missed,
        }
    }
}

/// A view, if the tip is still the one that it was begun with.
pub(super) async fn of_one_tip(source: &dyn ChainSource, view: View) -> Result<View, ChainError> {
    if source.tip().await? == view.tip {
        Ok(view)
    } else {
        Err(ChainError::Moved)
    }
}
