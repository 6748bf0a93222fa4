//! Hold invoices: taken, given back, or left until they are over.

use super::commands::{Request, key};
use super::model::Wrong;
use super::orders::{Order, order};
use super::world::World;
use crate::access::Credential;
use crate::ids::InvoiceId;
use crate::invoices::{CancelInvoice, CaptureInvoice};

/// How long a payment is waited for that goes back by itself.
const PATIENCE_BLOCKS: u32 = 20;

impl World {
    /// What is set aside for an invoice is taken or given back; now and then of one for which
    /// nothing is.
    pub(super) fn end_a_hold(&mut self, by: &Credential) -> Result<Option<Order>, Wrong> {
        let any = self.random.chance(150);
        let holds = self.model.invoices.iter().filter(|(_, it)| it.is_hold());
        let holds = holds.filter(|(_, it)| any || it.is_set_aside());
        let holds: Vec<InvoiceId> = holds.map(|(id, _)| *id).collect();
        let Some(invoice) = self.random.pick(&holds).copied() else {
            return Ok(None);
        };
        let takes = self.random.chance(600);
        let name = self.name();
        self.end_hold(invoice, takes, name, by)
    }

    fn end_hold(
        &mut self,
        invoice: InvoiceId,
        takes: bool,
        name: String,
        by: &Credential,
    ) -> Result<Option<Order>, Wrong> {
        let key = key(&name)?;
        if takes {
            self.model.ask_invoice_capture(invoice);
            let command = CaptureInvoice { key, invoice };
            return order(name, by, Request::CaptureInvoice(command));
        }
        self.model.ask_cancel(invoice);
        let command = CancelInvoice { key, invoice };
        order(name, by, Request::CancelInvoice(command))
    }

    /// Takes or gives back all that is set aside; over the network only what has not gone back by
    /// itself when its deadline is over.
    pub(super) fn end_holds(&mut self, by: &Credential) -> Result<Vec<Order>, Wrong> {
        let height = self.ground.height();
        let is_late = |hash| {
            let deadline = self.node.deadline(hash);
            deadline.is_none_or(|deadline| height > deadline + PATIENCE_BLOCKS)
        };
        let holds = self.model.invoices.iter();
        let holds = holds.filter(|(_, it)| match it.being_held() {
            Some(hash) => is_late(hash),
            None => it.is_set_aside(),
        });
        let holds: Vec<InvoiceId> = holds.map(|(id, _)| *id).collect();
        let mut orders = Vec::new();
        for invoice in holds {
            for (name, takes) in [("take", true), ("give", false)] {
                let name = format!("{name}-{invoice}");
                if !self.commands.iter().any(|it| it.key == name) {
                    orders.extend(self.end_hold(invoice, takes, name, by)?);
                    break;
                }
            }
        }
        Ok(orders)
    }
}
