//! A separate lane for deliveries that compute for long.
//!
//! Most deliveries finish within a millisecond. One that computes for longer is either a very large batch or a runaway, and short
//! deliveries must not wait for it. So a call that has used [`BRIEF`] leaves its thread and continues in one of a few slots, on
//! a low-priority thread. This is not a limit: a call that has spent half of its time there, or waiting for a slot, continues on
//! the ordinary threads, so that an overloaded machine does not turn large batches away.

use std::{
    io,
    num::NonZero,
    pin::Pin,
    sync::Arc,
    task::{Context, Poll, Waker},
    thread,
    time::{Duration, Instant},
};

use rustix::process::setpriority_process;
use tokio::{
    runtime::{self, Handle, Runtime},
    sync::{OwnedSemaphorePermit, Semaphore},
    task::JoinError,
    time,
};

/// CPU time that a call may use on an ordinary thread. The in-tree plugins read some 500 events in it, more than most deliveries
/// have. Under attack by endless loops, one in a hundred of the other deliveries waited longer with a higher value.
pub(crate) const BRIEF: Duration = Duration::from_millis(1);

/// How much lower the threads' priority is than that of brief calls (`nice`): they get a quarter of a core that a brief
/// call wants too. With the lowest priority, a batch did not finish in time on a machine that was busy with other
/// things, nor did some brief calls, perhaps behind a lock held by such a thread.
const STANDS_BACK: i32 = 5;

/// The slots of the lane, and their threads.
pub(crate) struct Lane {
    slots: Arc<Semaphore>,
    /// Only its blocking threads are used; they are started by the first long call.
    threads: Option<Runtime>,
}

/// The result of running a call on a thread.
enum Step<F: Future> {
    Done(F::Output),
    /// The call has left the thread.
    Left(Pin<Box<F>>),
}

/// Returns when a call that begins now and must end by `deadline` has used half of its time.
pub(crate) fn halfway(deadline: Instant) -> Instant {
    let now = Instant::now();
    now + deadline.saturating_duration_since(now) / 2
}

/// Runs a call to its end on this thread, long or not: for tools. Blocks.
pub(crate) fn to_end<F: Future>(call: F) -> F::Output {
    let mut call = std::pin::pin!(call);
    loop {
        // A guest never waits: when it leaves its thread it merely has not finished.
        if let Poll::Ready(answer) = call.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            return answer;
        }
    }
}

impl Lane {
    /// Creates a lane with one slot per two cores, at least one.
    pub(crate) fn of_this_machine() -> io::Result<Self> {
        let cores = thread::available_parallelism().map_or(1, NonZero::get);
        Self::new((cores / 2).max(1))
    }

    fn new(slots: usize) -> io::Result<Self> {
        let threads = runtime::Builder::new_current_thread()
            .thread_name("plugin-long")
            .max_blocking_threads(slots)
            .on_thread_start(stand_back)
            .build()?;
        Ok(Self {
            slots: Arc::new(Semaphore::new(slots)),
            threads: Some(threads),
        })
    }

    /// Runs a delivery's calls, which leave their thread when one has used [`BRIEF`], and again when half of their time is over, never
    /// more often. They must end by `deadline`.
    ///
    /// # Errors
    /// When the call has panicked.
    pub(crate) async fn run<F>(&self, call: F, deadline: Instant) -> Result<F::Output, JoinError>
    where
        F: Future<Output: Send> + Send + 'static,
    {
        let everybody = Handle::current();
        let half = halfway(deadline);
        let mut call = match step(&everybody, Box::pin(call), None).await? {
            Step::Done(answer) => return Ok(answer),
            Step::Left(call) => call,
        };
        let slot = time::timeout_at(half.into(), Arc::clone(&self.slots).acquire_owned()).await;
        if let (Ok(Ok(slot)), Some(threads)) = (slot, &self.threads) {
            call = match step(threads.handle(), call, Some(slot)).await? {
                Step::Done(answer) => return Ok(answer),
                Step::Left(call) => call,
            };
        }
        loop {
            call = match step(&everybody, call, None).await? {
                Step::Done(answer) => return Ok(answer),
                Step::Left(call) => call,
            };
        }
    }
}

impl Drop for Lane {
    fn drop(&mut self) {
        if let Some(threads) = self.threads.take() {
            // Does not wait for the threads, which a task must not do.
            threads.shutdown_background();
        }
    }
}

/// Continues the call on a blocking thread until it finishes or leaves. Its slot stays taken that long, whether or not
/// the caller still waits.
async fn step<F>(
    threads: &Handle,
    mut call: Pin<Box<F>>,
    slot: Option<OwnedSemaphorePermit>,
) -> Result<Step<F>, JoinError>
where
    F: Future<Output: Send> + Send + 'static,
{
    let step = move || {
        let _slot = slot;
        match call.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(answer) => Step::Done(answer),
            Poll::Pending => Step::Left(call),
        }
    };
    threads.spawn_blocking(step).await
}

/// Lowers the priority of this thread. It cannot be raised again without privileges, so nothing else may ever run on the thread.
pub(crate) fn stand_back() {
    // Affects this thread only. If it is not permitted, the thread competes with brief calls on equal terms.
    let _ = setpriority_process(None, STANDS_BACK);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Leaves its thread this many times. Returns, for each thread that it ran on, whether it is one of the lane's.
    async fn leaves(mut times: usize) -> Vec<bool> {
        let mut in_lane = Vec::new();
        std::future::poll_fn(move |_| {
            in_lane.push(thread::current().name() == Some("plugin-long"));
            if times == 0 {
                return Poll::Ready(std::mem::take(&mut in_lane));
            }
            times -= 1;
            Poll::Pending
        })
        .await
    }

    #[tokio::test]
    async fn a_long_call_goes_on_in_the_lane_and_comes_back() {
        let lane = Lane::new(1).expect("threads can be made");
        let later = Instant::now() + Duration::from_secs(60);
        for (times, in_lane) in [
            (0, &[false][..]),
            (1, &[false, true]),
            (3, &[false, true, false, false]),
        ] {
            assert_eq!(lane.run(leaves(times), later).await.expect("no panic"), in_lane);
        }
    }

    #[tokio::test]
    async fn without_a_free_place_a_call_waits_for_half_of_its_time() {
        let lane = Lane::new(1).expect("threads can be made");
        let slot = lane.slots.acquire().await.expect("a free slot");
        let began = Instant::now();
        let deadline = began + Duration::from_millis(200);
        assert_eq!(
            lane.run(leaves(1), deadline).await.expect("no panic"),
            [false, false]
        );
        assert!(began.elapsed() >= Duration::from_millis(100));
        drop(slot);
        assert_eq!(
            lane.run(leaves(1), deadline + Duration::from_secs(60))
                .await
                .expect("no panic"),
            [false, true]
        );
    }

    #[tokio::test]
    async fn a_place_stays_taken_when_the_caller_is_gone() {
        let lane = Lane::new(1).expect("threads can be made");
        let (release, released) = std::sync::mpsc::channel::<()>();
        let mut is_brief = true;
        let call = std::future::poll_fn(move |_| {
            if std::mem::take(&mut is_brief) {
                return Poll::Pending;
            }
            Poll::Ready(released.recv().is_ok())
        });
        let deadline = Instant::now() + Duration::from_secs(60);
        let gone = time::timeout(Duration::from_millis(50), lane.run(call, deadline)).await;
        assert!(gone.is_err());
        assert_eq!(lane.slots.available_permits(), 0);
        release.send(()).expect("the call still runs");
        let slot = time::timeout(Duration::from_secs(10), lane.slots.acquire()).await;
        assert!(slot.is_ok());
    }

    #[tokio::test]
    async fn a_panic_is_told() {
        let lane = Lane::new(1).expect("threads can be made");
        let call = async { panic!("as a test") };
        let deadline = Instant::now() + Duration::from_secs(1);
        assert!(
            lane.run(call, deadline)
                .await
                .is_err_and(|error| error.is_panic())
        );
    }
}
