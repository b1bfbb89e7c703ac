//! The rings under every order in which their threads can meet, as far as two preemptions reach.
//! A deadlock or a wake-up that is lost leaves a thread waiting, which loom calls a failure.

use crate::inbox::{Inbox, Patient};
use crate::outbound::Outbound;
use crate::sync::{Arc, Mutex};
use loom::thread;
use std::collections::VecDeque;

const PREEMPTIONS: usize = 2;

fn check(run: impl Fn() + Sync + Send + 'static) {
    let mut model = loom::model::Builder::new();
    model.preemption_bound = Some(PREEMPTIONS);
    model.check(run);
}

/// A full inbox makes its senders wait; none waits for ever, nothing is lost, each one's order is
/// kept, and a reader that takes one message a turn is woken for the next.
#[test]
fn an_inbox_loses_nothing_and_wakes_its_reader() {
    check(|| {
        let (inbox, mut mailbox) = Inbox::new(1).unwrap();
        let senders = [10, 20].map(|first| {
            let inbox = inbox.clone();
            thread::spawn(move || {
                inbox.send(first);
                inbox.send(first + 1);
            })
        });
        let mut read = Vec::new();
        while read.len() < 4 {
            mailbox.wake.wait();
            mailbox.wake.rest();
            if let Some(message) = mailbox.take() {
                read.push(message);
                mailbox.wake.wake();
            }
        }
        senders.into_iter().for_each(|sender| sender.join().unwrap());
        assert!(mailbox.take().is_none());
        let of = |first| read.iter().copied().filter(|m| m / 10 == first).collect::<Vec<_>>();
        assert_eq!((of(1), of(2)), (vec![10, 11], vec![20, 21]));
    });
}

/// A host that tries, and finds the inbox full, has its message back: it is either there or read.
#[test]
fn what_finds_no_room_comes_back() {
    check(|| {
        let (inbox, mut mailbox) = Inbox::new(1).unwrap();
        let host = thread::spawn(move || {
            let left = [1, 2].into_iter().filter(|n| inbox.try_post(*n).is_ok()).collect();
            inbox.nudge();
            left
        });
        mailbox.wake.wait();
        mailbox.wake.rest();
        let mut read: Vec<i32> = std::iter::from_fn(|| mailbox.take()).collect();
        let sent: Vec<i32> = host.join().unwrap();
        read.extend(std::iter::from_fn(|| mailbox.take()));
        assert_eq!(read, sent);
    });
}

/// A thread that must not wait keeps what finds no room, hands it on in order, and ends although
/// the other answers every message into an inbox that nobody reads any more.
#[test]
fn a_patient_sender_ends_in_order() {
    check(|| {
        let (mut orders, received) = Patient::new(1);
        let (inbox, mut mailbox) = Inbox::new(1).unwrap();
        let worker = thread::spawn(move || {
            let mut seen = Vec::new();
            while let Ok(order) = received.recv() {
                seen.push(order);
                if order == 9 {
                    break;
                }
                inbox.send(order);
            }
            seen
        });
        for order in 1..=3 {
            orders.send(order);
        }
        orders.flush();
        let _ = mailbox.take();
        drop(mailbox);
        orders.close(9);
        assert_eq!(worker.join().unwrap(), [1, 2, 3, 9]);
    });
}

/// The timer's side and the host's side of the queue, as `telling.rs` and `limpet_poll` use it.
/// While it is full, events stay with the timer, which the host wakes once it has taken some.
#[test]
fn the_host_hears_everything_and_the_queue_stays_bounded() {
    const CAPACITY: usize = 1;
    check(|| {
        let outbound = Outbound::new(CAPACITY).unwrap();
        let (inbox, mailbox) = Inbox::<()>::new(1).unwrap();
        let timer = {
            let outbound = outbound.clone();
            thread::spawn(move || {
                let mut events: VecDeque<_> = [1, 2].into();
                while !events.is_empty() {
                    if outbound.try_fill(|| events.pop_front()) && !events.is_empty() {
                        mailbox.wake.wait();
                        mailbox.wake.rest();
                    } else {
                        // In place of the timer's own clock: it tries again soon.
                        thread::yield_now();
                    }
                }
            })
        };
        let journal = {
            let outbound = outbound.clone();
            thread::spawn(move || outbound.push(11))
        };
        let mut heard = Vec::new();
        while heard.len() < 3 {
            outbound.wake.wait();
            outbound.wake.rest();
            let popped = outbound.pop(|_| true);
            heard.extend(popped.event);
            if popped.more {
                outbound.wake.wake();
            }
            if popped.was_full {
                inbox.nudge();
            }
        }
        timer.join().unwrap();
        journal.join().unwrap();
        heard.retain(|event| *event < 10);
        assert_eq!(heard, [1, 2]);
    });
}

/// However the timer and the host meet, the timer adds nothing beyond the bound.
#[test]
fn filling_stops_at_the_bound() {
    check(|| {
        let outbound = Outbound::new(2).unwrap();
        let left = Arc::new(Mutex::new(4));
        let timer = {
            let (outbound, left) = (outbound.clone(), left.clone());
            thread::spawn(move || {
                let next = || {
                    let mut left = left.lock().unwrap();
                    *left -= 1;
                    Some(*left)
                };
                outbound.try_fill(next)
            })
        };
        let first = outbound.pop(|_| true).event;
        let filled = timer.join().unwrap();
        let taken = 4 - *left.lock().unwrap();
        assert_eq!(taken, if filled { 2 } else { 0 });
        let rest = std::iter::from_fn(|| outbound.pop(|_| true).event).count();
        assert_eq!(rest + usize::from(first.is_some()), taken);
    });
}
