use super::*;
use crate::config::InferenceConfig;

const MONDAY_MS: i64 = 1_767_571_200_000;

fn sample(esp: &str, mailbox: MailboxProvider, hour: i64, latency_ms: i64) -> LatencySample {
    let identifier = event::Hasher::new().email_identifier("a@example.com").unwrap();
    LatencySample {
        universal_id: event::UniversalId::from_identifier(&identifier),
        esp: esp.to_owned(),
        campaign_id: None,
        campaign_type: None,
        payload_bytes: None,
        mailbox_provider: Some(mailbox),
        delivered_at: Timestamp::from_millis_clamped(MONDAY_MS + hour * 3_600_000),
        latency_ms,
        stands_for: 1,
    }
}

fn fit(samples: &[LatencySample]) -> LatencyModel {
    LatencyModel::fit(InferenceConfig::default().latency, samples, Timestamp::default())
}

fn monday(hour: i64) -> Timestamp {
    Timestamp::from_millis_clamped(MONDAY_MS + hour * 3_600_000)
}

#[test]
fn falls_back_from_provider_to_caller_to_everybody_to_default() {
    use LatencySource::{Caller, Default, Learned, LearnedAcrossProviders};
    let samples = vec![sample("sendgrid", MailboxProvider::Gmail, 1, 4_000); 30];
    let model = fit(&samples);
    let source = |model: &LatencyModel, esp, caller| {
        model
            .week(esp, None, caller, LatencyContext::default())
            .handed_over_at(monday(1))
            .source
    };
    assert_eq!(source(&model, Some("sendgrid"), Some(99.0)), Learned);
    assert_eq!(source(&model, Some("mailgun"), Some(99.0)), Caller);
    assert_eq!(source(&model, Some("mailgun"), None), LearnedAcrossProviders);
    let few = fit(&samples[..MIN_SAMPLES - 1]);
    assert_eq!(source(&few, Some("sendgrid"), None), Default);
    let expected = model
        .week(
            Some("sendgrid"),
            Some(MailboxProvider::Gmail),
            None,
            LatencyContext::default(),
        )
        .handed_over_at(monday(1));
    assert_eq!(
        expected,
        ExpectedLatency {
            seconds: 4.0,
            source: Learned,
            samples: 30,
            part_samples: Some(30)
        }
    );
}

#[test]
fn one_mail_that_hung_changes_nothing() {
    let mut samples: Vec<_> = (0..99)
        .map(|n| sample("ses", MailboxProvider::Other, n, 1_000 + 10 * n))
        .collect();
    let before = fit(&samples)
        .week(Some("ses"), None, None, LatencyContext::default())
        .handed_over_at(monday(1))
        .seconds;
    samples.push(sample("ses", MailboxProvider::Other, 1, 80_000_000));
    let after = fit(&samples)
        .week(Some("ses"), None, None, LatencyContext::default())
        .handed_over_at(monday(1))
        .seconds;
    assert!((after - before).abs() < 0.05, "{before} {after}");
}

#[test]
fn a_part_of_the_week_speaks_when_it_has_data() {
    let mut samples = vec![sample("ses", MailboxProvider::Other, 10, 2_000); 400];
    samples.extend(vec![sample("ses", MailboxProvider::Other, 17, 60_000); 200]);
    samples.push(sample("ses", MailboxProvider::Other, 30, 60_000));
    let week = fit(&samples).week(Some("ses"), None, None, LatencyContext::default());
    let at = |hour| week.handed_over_at(monday(hour)).seconds;
    assert!(at(10) < 2.3, "{}", at(10));
    assert!(at(17) > 40.0, "{}", at(17));
    assert!(
        at(30) < 3.0,
        "one sample of a night does not make a slow night: {}",
        at(30)
    );
    assert_eq!(at(24 + 10), at(10), "weekdays share their parts");
}

/// Five thousand mails of a month that take 20 s, and `late` ones, handed over on weekdays from 16:00 to 20:00 UTC, that take 20
/// minutes; of each, the logarithm's standard deviation is `spread`.
fn late_in_the_afternoon(late: i64, spread: f64) -> Vec<LatencySample> {
    let mut random = 7;
    let mut uniform = move || {
        random = crate::draw::mix(random);
        random as f64 / u64::MAX as f64
    };
    let mut samples = Vec::new();
    while samples.len() < 5_000 + usize::try_from(late).unwrap() {
        let sent_at = monday(0).plus_millis((uniform() * 28.0 * 24.0 * 3_600_000.0) as i64);
        let is_late = week::part(sent_at) == 4;
        if is_late == (samples.len() < 5_000) {
            continue;
        }
        // The sum of twelve uniform numbers is as good as normal.
        let normal: f64 = (0..12).map(|_| uniform()).sum::<f64>() - 6.0;
        let seconds = if is_late { 1_200.0 } else { 20.0 };
        let latency_ms = (1_000.0 * seconds * (spread * normal).exp()) as i64;
        samples.push(LatencySample {
            delivered_at: sent_at.plus_millis(latency_ms),
            latency_ms,
            ..sample("ses", MailboxProvider::Gmail, 0, 0)
        });
    }
    samples
}

#[test]
fn samples_that_agree_are_soon_believed_and_few_or_scattered_ones_are_not() {
    let expected = |late, spread, hour| {
        let model = fit(&late_in_the_afternoon(late, spread));
        let week = model.week(
            Some("ses"),
            Some(MailboxProvider::Gmail),
            None,
            LatencyContext::default(),
        );
        week.handed_over_at(monday(hour))
    };
    for spread in [0.05, 0.3, 0.6] {
        let late = expected(250, spread, 17);
        assert!((late.seconds / 1_200.0 - 1.0).abs() < 0.1, "{spread}: {late:?}");
        assert_eq!((late.samples, late.part_samples), (5_250, Some(250)));
        let usual = expected(250, spread, 13).seconds;
        assert!((usual / 20.0 - 1.0).abs() < 0.1, "{spread}: {usual}");
    }
    assert!(expected(50, 0.05, 17).seconds > 700.0);
    assert!(
        expected(3, 0.05, 17).seconds < 60.0,
        "three late mails are no rule"
    );
    // Scattered as they are, fifty say less about the part than about themselves.
    let scattered = expected(50, 2.0, 17).seconds;
    assert!(scattered < 700.0, "{scattered}");
}

#[test]
fn the_order_of_samples_does_not_matter() {
    let mut samples: Vec<_> = (0..50)
        .map(|n| {
            sample(
                ["ses", "sendgrid"][n % 2],
                MailboxProvider::ALL[n % 5],
                n as i64 * 7,
                500 + 31 * n as i64,
            )
        })
        .collect();
    let one_way = fit(&samples);
    samples.reverse();
    assert_eq!(fit(&samples), one_way);
    assert_eq!(one_way.rows().len(), 1 + 2 + 10);
}

/// Mails of a provider, `at_once` of them every hour, that take `seconds` each.
fn burst(campaign: &str, at_once: i64, hours: i64, seconds: i64) -> Vec<LatencySample> {
    let mut samples = Vec::new();
    for hour in 0..hours {
        for mail in 0..at_once {
            let mut sample = sample("ses", MailboxProvider::Other, hour, seconds * 1_000);
            let sent_at = monday(hour).plus_millis(mail * 100);
            sample.delivered_at = sent_at.plus_millis(sample.latency_ms);
            sample.campaign_id = Some(campaign.to_owned());
            samples.push(sample);
        }
    }
    samples
}

#[test]
fn queue_and_campaign_are_learned_where_samples_tell_them() {
    // A mailing of 400 at once in some hours, and single mails in the others.
    let mut samples = burst("flow", 1, 480, 2);
    for mut mail in burst("mailing", 400, 2, 40) {
        mail.delivered_at = mail.delivered_at.plus_millis(490 * 3_600_000);
        samples.push(mail);
    }
    let model = fit(&samples);
    let expected = |campaign_id, queue_depth| {
        let context = LatencyContext {
            campaign_id,
            queue_depth,
            ..LatencyContext::default()
        };
        model
            .week(Some("ses"), Some(MailboxProvider::Other), None, context)
            .handed_over_at(monday(490))
            .seconds
    };
    let plain = expected(None, None);
    assert!(
        expected(None, Some(300)) > 1.5 * expected(None, Some(0)),
        "{plain}"
    );
    assert!(expected(None, Some(1_000_000)) >= expected(None, Some(300)));
    assert!(expected(Some("mailing"), None) > expected(Some("flow"), None));
    assert_eq!(
        expected(Some("new"), None),
        plain,
        "a campaign that was never seen is the provider's"
    );
    // If both are given, the campaign adds only what the queue leaves unexplained: here next to nothing.
    let both = expected(Some("mailing"), Some(300)) / expected(None, Some(300));
    assert!((0.5..2.0).contains(&both), "{both}");
}

#[test]
fn a_share_of_the_mail_tells_the_queue_of_all_of_it() {
    // Mailings of 4,000 at once take 40 s and those of 40 take 2 s; of both, one person in ten was read.
    let mut samples = burst("small", 4, 300, 2);
    for mut mail in burst("large", 400, 6, 40) {
        mail.delivered_at = mail.delivered_at.plus_millis(310 * 3_600_000);
        samples.push(mail);
    }
    let expected = |samples: &[LatencySample], queue_depth| {
        let context = LatencyContext {
            queue_depth: Some(queue_depth),
            ..LatencyContext::default()
        };
        let week = fit(samples).week(Some("ses"), Some(MailboxProvider::Other), None, context);
        week.handed_over_at(monday(1)).seconds
    };
    let as_if_all = expected(&samples, 300);
    for sample in &mut samples {
        sample.stands_for = 10;
    }
    assert!(expected(&samples, 3_000) > 2.0 * expected(&samples, 30));
    assert!((expected(&samples, 3_000) / as_if_all - 1.0).abs() < 0.2);
}

#[test]
fn type_and_size_are_learned_where_senders_attach_them() {
    let mut samples = Vec::new();
    for n in 0..1_200 {
        // Receipts arrive in 2 s, offers in 8 s; of both, mails 64 times as large take three times as long.
        let (campaign_type, seconds) = [("receipt", 2), ("offer", 8)][n as usize % 2];
        let (bytes, times) = [(4_000, 1), (256_000, 3)][n as usize / 2 % 2];
        samples.push(LatencySample {
            campaign_id: Some(format!("{campaign_type}-{n}")),
            campaign_type: Some(campaign_type.to_owned()),
            payload_bytes: Some(bytes),
            ..sample("ses", MailboxProvider::Other, n, seconds * times * 1_000)
        });
    }
    let model = fit(&samples);
    let expected = |campaign_id, campaign_type, payload_bytes, queue_depth| {
        let context = LatencyContext {
            campaign_id,
            campaign_type,
            payload_bytes,
            queue_depth,
        };
        let week = model.week(Some("ses"), Some(MailboxProvider::Other), None, context);
        week.handed_over_at(monday(1)).seconds
    };
    for queue_depth in [None, Some(0)] {
        let of = |campaign_type, bytes| expected(None, campaign_type, bytes, queue_depth);
        assert!(
            of(Some("offer"), None) > 2.5 * of(Some("receipt"), None),
            "{queue_depth:?}"
        );
        assert!(of(None, Some(256_000)) > 2.0 * of(None, Some(4_000)));
        assert!(
            of(None, Some(100_000_000)) >= of(None, Some(256_000)),
            "the nearest class speaks for sizes that were never seen"
        );
        assert_eq!(
            of(Some("new"), None),
            of(None, None),
            "a type that was never seen is the provider's"
        );
        // Both together come close to what such mails take.
        let large_offer = of(Some("offer"), Some(256_000));
        assert!((18.0..30.0).contains(&large_offer), "{large_offer}");
        // Size adds to the type only what the type leaves unexplained.
        assert!(of(Some("offer"), Some(256_000)) > 2.0 * of(Some("offer"), Some(4_000)));
        // One mail says little about its campaign, so the type decides.
        let of_campaign = expected(Some("offer-1"), None, None, queue_depth);
        assert!(of_campaign > 2.0 * of(Some("receipt"), None), "{of_campaign}");
    }
}
