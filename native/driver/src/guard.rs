//! The boundary's guard: one macro that exports a function and catches what must not cross.
//!
//! A panic poisons the handle: whatever it owned is in an unknown state, so every later call says
//! `POISONED`, the agent ends, and its supervisor starts it anew from the journal.

use std::cell::RefCell;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicBool, Ordering};

/// What every function of the ABI returns. Numbers are never reused.
#[repr(u32)]
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Status {
    /// Done; outputs are written.
    Ok = 0,
    /// A null handle or a null pointer where there must be none.
    Null = 1,
    /// An argument outside its range; see `limpet_last_error`.
    Invalid = 2,
    /// A panic was caught; the handle is of no further use.
    Poisoned = 3,
    /// No room just now; nothing was done; try again after polling.
    Busy = 4,
    /// The caller's buffer cannot hold what is to be written.
    TooSmall = 5,
    /// Not allowed, or malformed; see `limpet_last_error`.
    Refused = 6,
    /// The world refused; see `limpet_last_error`.
    Failed = 7,
}

thread_local! {
    static LAST_ERROR: RefCell<String> = const { RefCell::new(String::new()) };
}

/// Keeps a sentence for `limpet_last_error` of this thread, and returns the status that goes with
/// it.
pub fn error(status: Status, text: impl Into<String>) -> Status {
    LAST_ERROR.with_borrow_mut(|last| *last = text.into());
    status
}

/// The last error of this thread.
pub fn last_error() -> String {
    LAST_ERROR.with_borrow(Clone::clone)
}

/// Runs a function body; a panic becomes `Poisoned` and is remembered.
pub fn guarded(poison: Option<&AtomicBool>, body: impl FnOnce() -> Status) -> Status {
    if poison.is_some_and(|flag| flag.load(Ordering::Acquire)) {
        return Status::Poisoned;
    }
    catch_unwind(AssertUnwindSafe(body)).unwrap_or_else(|panic| {
        if let Some(flag) = poison {
            flag.store(true, Ordering::Release);
        }
        let text = panic
            .downcast_ref::<&str>()
            .map(|text| (*text).to_owned())
            .or_else(|| panic.downcast_ref::<String>().cloned())
            .unwrap_or_default();
        error(Status::Poisoned, format!("cannot go on: {text} (the agent must be restarted)"))
    })
}

/// Exports functions of the C ABI. The first form takes a handle, refuses null, and poisons it on a
/// panic; the second has no handle.
#[macro_export]
macro_rules! export {
    ($(
        $(#[$meta:meta])*
        fn $name:ident($core:ident: handle $(, $argument:ident: $type:ty)* $(,)?) $body:block
    )*) => {$(
        $(#[$meta])*
        ///
        /// # Safety
        /// The handle is null or came from `limpet_open` and was not closed; every pointer is null
        /// or valid for the length that goes with it, and nothing else uses it meanwhile.
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name($core: *const Core $(, $argument: $type)*) -> Status {
            // SAFETY: the caller's promise above.
            let Some($core) = (unsafe { $core.as_ref() }) else { return Status::Null };
            $crate::guard::guarded(Some(&$core.poisoned), || $body)
        }
    )*};
    ($($(#[$meta:meta])* fn $name:ident($($argument:ident: $type:ty),* $(,)?) $body:block)*) => {$(
        $(#[$meta])*
        ///
        /// # Safety
        /// Every pointer is null or valid for the length that goes with it, and nothing else uses
        /// it meanwhile.
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name($($argument: $type),*) -> Status {
            $crate::guard::guarded(None, || $body)
        }
    )*};
}
