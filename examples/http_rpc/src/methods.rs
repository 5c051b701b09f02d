//! The methods of the program: a wallet that locks itself again after a time, and a few methods
//! for trying out a client.
//!
//! Calls run on worker threads, and `timer_ended` runs on the socket thread. The wallet has one
//! lock.

use std::{
    fmt,
    time::{Duration, Instant},
};

use parking_lot::Mutex;
use serde_json::{Value, json};
use sockman::Interrupt;

use crate::{
    Timers,
    rpc::{
        self, INVALID_PARAMETER, METHOD_NOT_FOUND, MISC_ERROR, Method, Methods, Params, RpcError,
        RpcResult,
    },
};

/// Bitcoin Core's code for a wrong passphrase.
const WALLET_PASSPHRASE_INCORRECT: i32 = -14;
/// The longest time in seconds for which the wallet is unlocked. Bitcoin Core's limit, a little
/// over three years.
const MAX_UNLOCKED: i64 = 100_000_000;
/// The number of the timer that locks the wallet.
const LOCK_WALLET: u32 = 0;
/// The limit of `wait`, in milliseconds. `wait` stands for a method that takes long.
const MAX_WAIT: u64 = 60_000;

/// The methods and the names of their parameters.
const METHODS: &[Method] = &[
    ("echo", &["arg0", "arg1", "arg2", "arg3"]),
    ("getwalletinfo", &[]),
    ("help", &["command"]),
    ("stop", &[]),
    ("uptime", &[]),
    ("wait", &["milliseconds"]),
    ("walletlock", &[]),
    ("walletpassphrase", &["passphrase", "timeout"]),
];

/// The lock state of the wallet.
#[derive(Debug, Default)]
struct Wallet {
    /// `None` while the wallet is locked.
    unlocked_until: Option<Instant>,
    /// How late the last timer locked the wallet.
    locked_late: Option<Duration>,
}

/// The methods of the program, with one wallet.
pub struct Wallets {
    passphrase: String,
    started: Instant,
    wallet: Mutex<Wallet>,
    stop: Interrupt,
}

/// Omits the passphrase.
impl fmt::Debug for Wallets {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Wallets").field("wallet", &self.wallet).finish_non_exhaustive()
    }
}

impl Wallets {
    /// Returns the methods with a locked wallet. The method `stop` sets the interrupt `stop`.
    pub fn new(passphrase: &str, stop: Interrupt) -> Wallets {
        Wallets {
            passphrase: passphrase.to_owned(),
            started: Instant::now(),
            wallet: Mutex::default(),
            stop,
        }
    }

    fn unlock(&self, params: &Params<'_>, timers: &Timers<'_>) -> RpcResult {
        let passphrase = params.required(0, Params::string)?;
        let seconds = params.required(1, Params::integer)?;
        if seconds < 0 {
            return Err(RpcError::new(INVALID_PARAMETER, "Timeout cannot be negative."));
        }
        if passphrase != self.passphrase {
            let message = "Error: The wallet passphrase entered was incorrect.";
            return Err(RpcError::new(WALLET_PASSPHRASE_INCORRECT, message));
        }
        let seconds = seconds.min(MAX_UNLOCKED).unsigned_abs();
        let until = Instant::now() + Duration::from_secs(seconds);
        let mut wallet = self.wallet.lock();
        wallet.unlocked_until = Some(until);
        // The timer is set under the lock, so that of two concurrent calls the later one decides.
        timers.set(LOCK_WALLET, until);
        Ok(Value::Null)
    }

    fn lock(&self, timers: &Timers<'_>) -> RpcResult {
        let mut wallet = self.wallet.lock();
        wallet.unlocked_until = None;
        timers.clear(LOCK_WALLET);
        Ok(Value::Null)
    }

    /// Returns the result of the method `getwalletinfo`.
    pub fn info(&self) -> Value {
        let wallet = self.wallet.lock();
        let left = wallet.unlocked_until.map(|until| until.duration_since(Instant::now()));
        json!({
            "unlocked": left.is_some(),
            "seconds_left": left.map(|left| left.as_secs_f64()),
            "locked_late_by_ms": wallet.locked_late.map(|late| late.as_secs_f64() * 1e3),
        })
    }

    fn wait(&self, params: &Params<'_>) -> RpcResult {
        let milliseconds = params.required(0, Params::integer)?;
        let milliseconds = u64::try_from(milliseconds)
            .ok()
            .filter(|milliseconds| *milliseconds <= MAX_WAIT)
            .ok_or_else(|| {
                let message = format!("milliseconds must be between 0 and {MAX_WAIT}");
                RpcError::new(INVALID_PARAMETER, message)
            })?;
        if !self.stop.sleep_for(Duration::from_millis(milliseconds)) {
            return Err(RpcError::new(MISC_ERROR, "the server is stopping"));
        }
        Ok(json!(milliseconds))
    }
}

impl Methods for Wallets {
    fn parameters(&self, method: &str) -> Option<&'static [&'static str]> {
        METHODS.iter().find(|(name, _)| *name == method).map(|(_, parameters)| *parameters)
    }

    fn call(&self, method: &str, params: &Params<'_>, timers: &Timers<'_>) -> RpcResult {
        match method {
            "getwalletinfo" => Ok(self.info()),
            "help" => Ok(rpc::help(METHODS, params.string(0)?.as_deref())),
            "stop" => {
                self.stop.interrupt();
                Ok(json!("the server is stopping"))
            }
            "uptime" => Ok(json!(self.started.elapsed().as_secs())),
            "wait" => self.wait(params),
            "walletlock" => self.lock(timers),
            "walletpassphrase" => self.unlock(params, timers),
            _ => Err(RpcError::new(METHOD_NOT_FOUND, "Method not found")),
        }
    }

    fn call_for_text(
        &self,
        method: &str,
        params: &Params<'_>,
        timers: &Timers<'_>,
    ) -> Result<String, RpcError> {
        match method {
            "echo" => Ok(params.all()),
            _ => self.call(method, params, timers).map(|value| value.to_string()),
        }
    }

    fn timer_ended(&self, number: u32) {
        if number != LOCK_WALLET {
            return;
        }
        let mut wallet = self.wallet.lock();
        let now = Instant::now();
        // A call may have moved the deadline since this timer expired.
        if let Some(until) = wallet.unlocked_until.take_if(|until| *until <= now) {
            wallet.locked_late = Some(now - until);
        }
    }
}
