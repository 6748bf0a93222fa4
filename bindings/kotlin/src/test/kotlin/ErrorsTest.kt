package me.flashapp.flashkit

import kotlinx.coroutines.runBlocking
import org.junit.jupiter.api.Assertions.assertEquals
import org.junit.jupiter.api.Assertions.assertTrue
import org.junit.jupiter.api.Test
import org.junit.jupiter.api.io.TempDir
import java.io.File

/** Every kind of error, provoked and caught by its class. */
class ErrorsTest {
    @TempDir lateinit var folder: File

    private fun file(name: String) = File(folder, name).path

    private class Shop(val kit: Flashkit, val merchant: String, val till: PairedTill) {
        val issuer = kit.issuerCredential()

        suspend fun sale(price: Price = jmd(100), key: String = "sale") = kit.createInvoice(
            till.credential, CreateInvoiceRequest(key, InvoicePurpose.Sale(merchant), price, "Lunch"),
        )
    }

    private fun shop(test: suspend Shop.() -> Unit) = runBlocking {
        val kit = Flashkit.open(config(file("books.db"), LightningConfig.Simulated(SimulatedLightning())))
        val issuer = kit.issuerCredential()
        val merchant = kit.createMerchant(issuer, CreateMerchantRequest("merchant", "Cookshop", PayoutTerms())).id
        val till = kit.pairTill(issuer, PairTillRequest("till", merchant, "1"))
        Shop(kit, merchant, till).test()
        kit.shutdown()
    }

    private fun none(prefix: String) = prefix + "_" + "0".repeat(32)

    @Test fun invalidInput() = shop {
        refused<FlashException.InvalidInput>("id.malformed") { kit.getInvoice(issuer, merchant) }
        refused<FlashException.InvalidInput>("money.not_positive") { sale(jmd(0)) }
        refused<FlashException.InvalidInput>("command.bad_key") { sale(sat(1), "") }
        val dollars = FixedRate("J$", "15000000.00", "test", 0)
        refused<FlashException.InvalidInput>("money.unknown_currency") { kit.setRate(dollars) }
        refused<FlashException.InvalidInput>("card.tap_malformed") { kit.peekCard("https://example.com") }
        val short = config(file("short.db")).copy(masterSecret = ByteArray(31))
        refused<FlashException.InvalidInput>("config.wrong_length") { Flashkit.open(short) }
    }

    @Test fun notFound() = shop {
        refused<FlashException.NotFound>("invoice.not_found") { kit.getInvoice(issuer, none("inv")) }
        refused<FlashException.NotFound>("card.not_found") { kit.getCard(issuer, none("card")) }
        refused<FlashException.NotFound>("settlement.merchant_not_found") { kit.merchantBalance(issuer, none("mer")) }
        refused<FlashException.NotFound>("settlement.payout_not_found") { kit.getPayout(issuer, none("pay")) }
        refused<FlashException.NotFound>("reward.program_not_found") { kit.getPointsProgram(issuer, none("prog")) }
    }

    @Test fun conflict() = shop {
        val again = CreateMerchantRequest("merchant", "Another", PayoutTerms())
        refused<FlashException.Conflict>("command.key_reused") { kit.createMerchant(issuer, again) }
        suspend fun issue(key: String) = kit.issueCard(issuer, IssueCardRequest(key, UID, CardLimits()))
        issue("one")
        refused<FlashException.Conflict>("card.already_issued") { issue("two") }
    }

    @Test fun insufficientFundsAndDeclined() = shop {
        val card = kit.issueCard(issuer, IssueCardRequest("issue", UID, CardLimits(perTap = 5_000))).id
        val tap = VirtualBoltCard.program(UID, kit.programmingKeys(issuer, UID)).tap()
        suspend fun charge(key: String, amount: Long) =
            kit.chargeCard(till.credential, ChargeCardRequest(key, tap, sat(amount), ""))
        refused<FlashException.Declined>("card.not_active") { charge("early", 1) }
        val holder = kit.activateCard(issuer, ActivateCardRequest("activate", card)).holderCredential
        refused<FlashException.Declined>("card.keys_withheld") { kit.programmingKeys(issuer, UID) }
        refused<FlashException.InsufficientFunds>("card.insufficient_funds") { charge("poor", 1) }
        refused<FlashException.Declined>("card.limit_exceeded") { charge("much", 6) }
        kit.freezeCard(holder, FreezeCardRequest("freeze", card))
        refused<FlashException.Declined>("card.frozen") { charge("frozen", 1) }
        refused<FlashException.Declined>("access.not_allowed") { kit.trialBalance(till.credential) }
        refused<FlashException.Declined>("access.unknown") { kit.trialBalance("nobody") }
        kit.revokeTill(issuer, RevokeTillRequest("revoke", till.till.id))
        refused<FlashException.Declined>("access.revoked") { sale() }
    }

    @Test fun unavailable() = shop {
        refused<FlashException.Unavailable>("rate.unknown_currency") { sale() }
        kit.setRate(rate(System.currentTimeMillis() - 3_600_000))
        refused<FlashException.Unavailable>("rate.stale", retryable = true) { sale() }
        kit.setRate(rate())
        refused<FlashException.Unavailable>("lightning.not_running", retryable = true) { sale() }
        refused<FlashException.Unavailable>("store.in_use", retryable = true) {
            Flashkit.open(config(file("books.db")))
        }
        kit.shutdown()
        refused<FlashException.Unavailable>("store.closed") { sale() }
        val alone = Flashkit.open(config(file("alone.db")))
        val audit = alone.audit(alone.issuerCredential())
        assertTrue(audit.isBalanced)
        assertEquals(listOf("lightning.no_node", "lightning.no_node"), audit.untied.map { it.code })
        alone.shutdown()
    }

    @Test fun storage() {
        File(folder, "garbage.db").writeBytes(ByteArray(8_192) { 0x5a })
        refused<FlashException.Storage>("store.corrupt") { Flashkit.open(config(file("garbage.db"))) }
    }

    /** A listener that throws what it must not. */
    @Test fun internal() = runBlocking {
        val lightning = SimulatedLightning()
        val broken = object : EventListener {
            override fun onEvent(event: EngineEvent): Unit = throw IllegalStateException("a bug in the app")
        }
        refused<FlashException.Internal>("ffi.callback") { lightning.tryListener(broken) }
        lightning.tryListener(object : EventListener {
            override fun onEvent(event: EngineEvent) = Unit
        })
    }
}
