//! A lane for deliveries that compute long.
//!
//! Most deliveries are over within a millisecond. One that computes for longer is a very large batch, or a runaway, and the
//! short ones must not wait for it. So a call that has used [`BRIEF`] leaves its thread and goes on in one of a few places,
//! on a thread that stands back behind others. This is no fence: who has spent half of its time there, or waiting for a
//! place, goes on like everybody else, so that a machine with too much to do does not turn large batches away.

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

/// CPU time that a call uses like everybody else. The in-tree plugins read some 500 events in it, more than most
/// deliveries have. Attacked by endless loops, one delivery in a hundred next to them waited longer with more.
pub(crate) const BRIEF: Duration = Duration::from_millis(1);

/// How far threads stand back behind those of brief calls (`nice`): a quarter of a core that a brief call wants too. With
/// the least share there is, a batch did not end within its time on a machine that was busy with other things, nor did some
/// brief calls, perhaps behind a lock of such a thread's.
const STANDS_BACK: i32 = 5;

/// The places, and their threads.
pub(crate) struct Lane {
    places: Arc<Semaphore>,
    /// Only its blocking threads are used; they start with the first long call.
    threads: Option<Runtime>,
}

/// What became of a call on a thread.
enum Step<F: Future> {
    Done(F::Output),
    /// It has left the thread.
    Left(Pin<Box<F>>),
}

/// When a call that began now and must end by `deadline` has had half of its time.
pub(crate) fn halfway(deadline: Instant) -> Instant {
    let now = Instant::now();
    now + deadline.saturating_duration_since(now) / 2
}

/// Runs a call to its end on this thread, long or not: for tools. Blocks.
pub(crate) fn to_end<F: Future>(call: F) -> F::Output {
    let mut call = std::pin::pin!(call);
    loop {
        // A guest never waits: it is not over when it leaves its thread.
        if let Poll::Ready(answer) = call.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            return answer;
        }
    }
}

impl Lane {
    /// A lane with a place for every second core, at least one.
    pub(crate) fn of_this_machine() -> io::Result<Self> {
        let cores = thread::available_parallelism().map_or(1, NonZero::get);
        Self::new((cores / 2).max(1))
    }

    fn new(places: usize) -> io::Result<Self> {
        let threads = runtime::Builder::new_current_thread()
            .thread_name("plugin-long")
            .max_blocking_threads(places)
            .on_thread_start(stand_back)
            .build()?;
        Ok(Self {
            places: Arc::new(Semaphore::new(places)),
            threads: Some(threads),
        })
    }

    /// Runs a call that leaves its thread when it has used [`BRIEF`], and again when half of its time is over. It must end
    /// by `deadline` by itself.
    ///
    /// # Errors
    /// The call has panicked.
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
        let place = time::timeout_at(half.into(), Arc::clone(&self.places).acquire_owned()).await;
        if let (Ok(Ok(place)), Some(threads)) = (place, &self.threads) {
            call = match step(threads.handle(), call, Some(place)).await? {
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
            // Does not wait for them, which a task must not.
            threads.shutdown_background();
        }
    }
}

/// Lets the call go on, on a thread that may block, until it ends or leaves. Its place is taken for as long, whether or not its
/// caller still waits.
async fn step<F>(
    threads: &Handle,
    mut call: Pin<Box<F>>,
    place: Option<OwnedSemaphorePermit>,
) -> Result<Step<F>, JoinError>
where
    F: Future<Output: Send> + Send + 'static,
{
    let step = move || {
        let _place = place;
        match call.as_mut().poll(&mut Context::from_waker(Waker::noop())) {
            Poll::Ready(answer) => Step::Done(answer),
            Poll::Pending => Step::Left(call),
        }
    };
    threads.spawn_blocking(step).await
}

/// Puts this thread behind those of brief calls. It cannot come back without privileges, so nothing else may ever run on it.
pub(crate) fn stand_back() {
    // For this thread alone. Where it is forbidden, it competes with brief calls on equal terms.
    let _ = setpriority_process(None, STANDS_BACK);
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Leaves its thread so many times. Gives, for each thread that it was on, whether that is one of the lane's.
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
        let place = lane.places.acquire().await.expect("a free place");
        let began = Instant::now();
        let deadline = began + Duration::from_millis(200);
        assert_eq!(
            lane.run(leaves(1), deadline).await.expect("no panic"),
            [false, false]
        );
        assert!(began.elapsed() >= Duration::from_millis(100));
        drop(place);
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
        assert_eq!(lane.places.available_permits(), 0);
        release.send(()).expect("the call still runs");
        let place = time::timeout(Duration::from_secs(10), lane.places.acquire()).await;
        assert!(place.is_ok());
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
