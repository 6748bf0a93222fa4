// What the tests share: a config, a price, a wait, and an error caught by type.
package me.flashapp.flashkit

import kotlinx.coroutines.delay
import kotlinx.coroutines.runBlocking
import org.junit.jupiter.api.Assertions.assertEquals
import org.junit.jupiter.api.Assertions.assertTrue
import org.junit.jupiter.api.assertThrows

const val SAT = 1_000L
const val UID = "04a39493cc8680"

/** One bitcoin is fifteen million Jamaican dollars, as of now. */
fun rate(observedAtMs: Long = System.currentTimeMillis()) = FixedRate("JMD", "15000000.00", "test", observedAtMs)

fun config(databasePath: String, lightning: LightningConfig = LightningConfig.NoNode) = FlashkitConfig(
    databasePath = databasePath, masterSecret = ByteArray(32) { 7 }, network = Network.REGTEST, lightning = lightning,
)

fun jmd(minorUnits: Long): Price = Price.Fiat("JMD", minorUnits)

fun sat(amount: Long): Price = Price.Bitcoin(amount * SAT)

suspend fun until(what: String, ask: suspend () -> Boolean) {
    val begun = System.currentTimeMillis()
    while (!ask()) {
        assertTrue(System.currentTimeMillis() - begun < 30_000, "waited in vain: $what")
        delay(10)
    }
}

suspend fun Flashkit.settled(credential: String, invoice: String) =
    until("the invoice is settled") { getInvoice(credential, invoice).state == InvoiceState.SETTLED }

/** The call must fail with this class of error and this code. */
inline fun <reified E : FlashException> refused(
    code: String,
    retryable: Boolean = false,
    crossinline call: suspend () -> Any?,
) {
    val error = assertThrows<E> { runBlocking { call() } }
    // No `else`: a kind that is added does not compile until it is caught here.
    val (seen, detail, again) = when (val any: FlashException = error) {
        is FlashException.InvalidInput -> Triple(any.code, any.detail, any.retryable)
        is FlashException.NotFound -> Triple(any.code, any.detail, any.retryable)
        is FlashException.Conflict -> Triple(any.code, any.detail, any.retryable)
        is FlashException.InsufficientFunds -> Triple(any.code, any.detail, any.retryable)
        is FlashException.Declined -> Triple(any.code, any.detail, any.retryable)
        is FlashException.Unavailable -> Triple(any.code, any.detail, any.retryable)
        is FlashException.Storage -> Triple(any.code, any.detail, any.retryable)
        is FlashException.Internal -> Triple(any.code, any.detail, any.retryable)
    }
    assertEquals(code to retryable, seen to again)
    assertEquals("$code: $detail", error.toString())
}
