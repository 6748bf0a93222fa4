//! 64 at once: the operator's position never goes beyond its cap.

use std::sync::Arc;

use tokio::task::JoinSet;

use crate::support::scene::on_both_stores;
use crate::world::{Terms, World, fiat};

on_both_stores! {
    sixty_four_refunds_stay_within_the_cap;
    sixty_four_captures_of_one_tab_pay_once;
}

async fn sixty_four_refunds_stay_within_the_cap(is_sqlite: bool) {
    let mut world = World::new(is_sqlite, "JMD", "15000000", Terms::default()).await;
    world.fund(64_000, 4_300_000).await;
    let mut sales = Vec::new();
    for number in 0..64 {
        let sale = world
            .charge(&format!("sale/{number}"), fiat("JMD", 1_000))
            .await;
        sales.push(sale.unwrap().id);
    }
    assert_eq!(world.position().await, 0);
    world.cap("cap", 20_999).await;
    let world = Arc::new(world);
    let mut tasks = JoinSet::new();
    for charge in sales {
        let world = world.clone();
        tasks.spawn(async move {
            let name = format!("refund/{charge}");
            world.refund(&name, charge, fiat("JMD", 1_000)).await
        });
    }
    let (mut done, mut refused) = (0, 0);
    while let Some(told) = tasks.join_next().await {
        match told.unwrap() {
            Ok(_) => done += 1,
            Err("rate.position_cap_reached") => refused += 1,
            Err(other) => panic!("{other}"),
        }
        assert!(world.position().await >= -20_999);
    }
    assert_eq!((done, refused), (20, 44));
    assert_eq!(
        (world.position().await, world.on_card().await),
        (-20_000, 20_000)
    );
    let world = Arc::into_inner(world).unwrap();
    world.stop("refunds").await;
}

async fn sixty_four_captures_of_one_tab_pay_once(is_sqlite: bool) {
    let mut world = World::new(is_sqlite, "JMD", "15000000", Terms::default()).await;
    world.fund(150_000, 10_000_000).await;
    let tab = world
        .authorize("tab", fiat("JMD", 150_000))
        .await
        .unwrap()
        .id;
    let world = Arc::new(world);
    let mut tasks = JoinSet::new();
    for number in 0..64 {
        let world = world.clone();
        tasks.spawn(async move {
            let name = format!("capture/{number}");
            world.capture(&name, tab, fiat("JMD", 150_000)).await
        });
    }
    let mut done = 0;
    while let Some(told) = tasks.join_next().await {
        match told.unwrap() {
            Ok(_) => done += 1,
            Err(code) => assert_eq!(code, "card.charge_not_open"),
        }
    }
    assert_eq!(done, 1);
    assert_eq!(world.books().await, [0, 10_000_000, 0, 0, 0]);
    let world = Arc::into_inner(world).unwrap();
    world.stop("captures").await;
}
