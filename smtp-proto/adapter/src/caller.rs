//! The caller's `tracing` span, for the threads and tasks that work for it.

/// The span that was current at its creation. Without the feature `tracing` it is empty.
///
/// A new thread is not in any span. Events outside a session would otherwise be in none.
///
/// ```
/// use smtp_adapter::Caller;
///
/// let caller = Caller::current();
/// let thread = std::thread::spawn(move || caller.in_scope(|| 6 * 7));
/// assert_eq!(thread.join().unwrap(), 42);
/// ```
#[derive(Clone, Debug)]
#[must_use]
pub struct Caller {
    #[cfg(feature = "tracing")]
    span: tracing::Span,
}

impl Caller {
    /// The current span of this thread or task.
    pub fn current() -> Self {
        Self {
            #[cfg(feature = "tracing")]
            span: tracing::Span::current(),
        }
    }

    /// Calls `f` in the span.
    pub fn in_scope<T>(&self, f: impl FnOnce() -> T) -> T {
        #[cfg(feature = "tracing")]
        return self.span.in_scope(f);
        #[cfg(not(feature = "tracing"))]
        f()
    }

    /// The same future, polled in the span. While it waits, the span is not entered.
    pub fn poll_in_scope<F: Future>(self, future: F) -> impl Future<Output = F::Output> {
        #[cfg(feature = "tracing")]
        return tracing::Instrument::instrument(future, self.span);
        #[cfg(not(feature = "tracing"))]
        future
    }
}
