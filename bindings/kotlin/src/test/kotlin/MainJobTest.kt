package me.flashapp.flashkit

import kotlinx.coroutines.runBlocking
import org.junit.jupiter.api.Assertions.assertEquals
import org.junit.jupiter.api.Assertions.assertNotNull
import org.junit.jupiter.api.Assertions.assertTrue
import org.junit.jupiter.api.Test
import org.junit.jupiter.api.io.TempDir
import java.io.File
import java.util.concurrent.CopyOnWriteArrayList

/**
 * Sell, pay, tap, earn, settle: the whole business on one SQLite file and a simulated Lightning
 * network, with every amount checked.
 */
class MainJobTest {
    @TempDir lateinit var folder: File

    @Test fun theMainJob() = runBlocking {
        val lightning = SimulatedLightning()
        val setup = config(File(folder, "books.db").path, LightningConfig.Simulated(lightning))
        val customer = lightning.wallet(1_000_000 * SAT)
        val ownNode = lightning.wallet(100_000 * SAT)
        var kit = Flashkit.open(setup)
        kit.start()
        kit.setRate(rate())
        val issuer = kit.issuerCredential()

        val merchant = kit.createMerchant(issuer, CreateMerchantRequest("merchant", "Cookshop", PayoutTerms()))
        val till = kit.pairTill(issuer, PairTillRequest("till", merchant.id, "till 1")).credential
        val program = kit.createPointsProgram(
            issuer,
            CreatePointsProgramRequest("program", merchant.id, "Points", earnBps = 200u, pointValueMsat = SAT),
        )

        // An invoice priced in Jamaican dollars, paid by the customer's wallet.
        val invoice = kit.createInvoice(
            till,
            CreateInvoiceRequest("sale", InvoicePurpose.Sale(merchant.id), jmd(150_000), "Lunch"),
        )
        assertEquals(10_000 * SAT, invoice.amountMsat)
        assertEquals("15000000.00", invoice.quote?.rate)
        assertEquals(InvoiceState.NEW, invoice.state)
        customer.pay(invoice.bolt11)
        kit.settled(till, invoice.id)
        assertEquals(10_000 * SAT, kit.merchantBalance(till, merchant.id).availableMsat)
        // Paid once, it cannot be paid again.
        refused<FlashException.Declined>("lightning.refused") { ownNode.pay(invoice.bolt11) }

        // A card: made, written, handed over, topped up.
        val limits = CardLimits(timeZone = "America/Jamaica")
        val card = kit.issueCard(issuer, IssueCardRequest("issue", UID, limits))
        val chip = VirtualBoltCard.program(UID, kit.programmingKeys(issuer, UID))
        val holder = kit.activateCard(issuer, ActivateCardRequest("activate", card.id)).holderCredential
        val topUp = kit.topUpCard(holder, TopUpCardRequest("top-up", card.id, sat(50_000)))
        customer.pay(topUp.bolt11)
        kit.settled(holder, topUp.id)

        // A tap: looking uses nothing up, the charge does.
        val tap = chip.tap()
        repeat(2) { assertEquals(50_000 * SAT, kit.peekCard(tap).balanceMsat) }
        suspend fun charge(key: String) = kit.chargeCard(till, ChargeCardRequest(key, tap, jmd(300_000), "table 4"))
        val charged = charge("charge")
        assertEquals(20_000 * SAT to 400L, charged.amountMsat to charged.points)
        refused<FlashException.Declined>("card.tap_replayed") { charge("another") }
        assertEquals(charged, charge("charge"))
        refused<FlashException.Declined>("card.tap_replayed") { kit.peekCard(tap) }
        assertEquals(30_000 * SAT, kit.getCard(holder, card.id).balanceMsat)

        // The points came in the commit of the charge, and are money again.
        assertEquals(400, kit.pointsBalance(holder, card.id, program.id).points)
        kit.redeemPoints(holder, RedeemPointsRequest("redeem", card.id, program.id, 400))
        assertEquals(0, kit.pointsBalance(holder, card.id, program.id).points)
        val history = kit.cardHistory(holder, card.id).transfers
        assertEquals(listOf(400 * SAT, 20_000 * SAT, 50_000 * SAT), history.map { it.amount })

        // The merchant is paid out to its own node, less a fee.
        val quote = kit.quotePayout(till, merchant.id)
        assertEquals(29_306 * SAT to 293_060L, quote.amountMsat to quote.feeMsat)
        val bolt11 = ownNode.invoice(quote.amountMsat, "payout")
        val payout = kit.requestPayout(issuer, RequestPayoutRequest("payout", merchant.id, bolt11))
        until("the merchant is paid out") { kit.getPayout(till, payout.id).state == PayoutState.PAID_OUT }
        assertEquals((100_000 + 29_306) * SAT, ownNode.balanceMsat())
        assertEquals(listOf(payout.id), kit.listPayouts(till, merchant.id).payouts.map { it.id })

        // The books.
        val books = kit.trialBalance(issuer)
        assertTrue(books.isBalanced)
        books.totals.forEach { assertEquals(it.debits, it.credits) }
        fun balance(account: String) = books.lines.first { it.account.startsWith(account) }.balance
        assertEquals("30694000", balance("node_channels/"))
        assertEquals("940", balance("merchant_payable/"))
        assertEquals("30400000", balance("card_balance/"))
        assertEquals("293060", balance("fee_income/"))
        assertEquals("0", balance("reward_fund/"))
        val audit = kit.audit(issuer)
        assertTrue(audit.isBalanced && audit.controls.all { it.isExplained })

        // A cursor outlives the engine.
        val first = kit.nextEvents(issuer, "app", 1u).single()
        kit.acknowledgeEvents(issuer, "app", first.position)
        kit.shutdown()
        kit.shutdown()
        refused<FlashException.Unavailable>("store.closed") { kit.trialBalance(issuer) }
        kit = Flashkit.open(setup)
        kit.start()
        val rest = kit.nextEvents(issuer, "app", 1_000u)
        assertEquals(first.position + 1, rest.first().position)
        val settled = rest.filter { it.kind == "invoice.settled" }.map { it.objectId }
        assertEquals(listOf(invoice.id, topUp.id), settled)
        assertNotNull(Regex("\"amount_msat\":10000000\\b").find(rest.first { it.objectId == invoice.id }.bodyJson))

        // A listener hears the same; what it throws at comes again.
        val heard = CopyOnWriteArrayList<EngineEvent>()
        kit.setListener(issuer, "app", object : EventListener {
            override fun onEvent(event: EngineEvent) {
                heard.add(event)
                if (heard.size == 1) throw IllegalStateException("a bug in the app")
            }
        })
        until("the listener has heard everything") { heard.size > rest.size }
        assertEquals(heard[0], heard[1])
        assertEquals(rest, heard.drop(1))
        until("it is acknowledged") { kit.nextEvents(issuer, "app").isEmpty() }
        kit.clearListener()
        kit.shutdown()
    }
}
