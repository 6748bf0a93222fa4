//! Conversions against a reference that shares nothing with the crate: the rows were computed with
//! the exact fractions of Python's standard library. `None` is an answer that does not fit.

use Direction::{ToFiat, ToMsat};
use flashkit::money::{Currency, MAX_MSAT, MoneyError, Rate, Rounding};

#[derive(Debug, Clone, Copy)]
enum Direction {
    ToMsat,
    ToFiat,
}

/// Currency, rate, amount; then the answer rounded down, up, and to the nearest, half to even.
type Row = (
    Direction,
    &'static str,
    &'static str,
    i64,
    Option<i64>,
    Option<i64>,
    Option<i64>,
);

#[rustfmt::skip]
const ROWS: &[Row] = &[
    (ToFiat, "TTD", "17.935", 4_136_115_379_643_829_877, Some(74_181_229_333), Some(74_181_229_334), Some(74_181_229_334)),
    (ToFiat, "JMD", "9274122926993656524765369.966", 16_417_075_550_906_134, None, None, None),
    (ToFiat, "JPY", "892094956.578", 4_772_927_481_229_422_867, Some(42_579_045_341_173_049), Some(42_579_045_341_173_050), Some(42_579_045_341_173_049)),
    (ToMsat, "TTD", "0.0000000000000427159438407", 638_837_706_132, None, None, None),
    (ToMsat, "JPY", "7.3690", 944_465, Some(12_816_732_256_751_255), Some(12_816_732_256_751_256), Some(12_816_732_256_751_255)),
    (ToFiat, "JPY", "7800809844842169874138083.564", 821_665, None, None, None),
    (ToFiat, "USD", "6", 10_568_097_431_341_769, Some(63_408_584), Some(63_408_585), Some(63_408_585)),
    (ToFiat, "USD", "135606187118481030228934594.7", 9_069_063_620_450_976_319, None, None, None),
    (ToMsat, "USD", "2495.113117198265899086869366", 8_069_167_449_768_116, None, None, None),
    (ToMsat, "JMD", "1", 136, Some(136_000_000_000), Some(136_000_000_000), Some(136_000_000_000)),
    (ToFiat, "USD", "81087782971148607547803580.7", 3_005_651_520_688_402_038, None, None, None),
    (ToFiat, "JPY", "730685608616", 2_776_482_452_193_238_551, None, None, None),
    (ToFiat, "USD", "4225768751301616833204609.96", 220, Some(929_669_125_286_355_703), Some(929_669_125_286_355_704), Some(929_669_125_286_355_703)),
    (ToMsat, "JMD", "8450506412487208450113911868", 5_379_364_665_429_535_023, Some(0), Some(1), Some(1)),
    (ToFiat, "USD", "548826.997873985325", 3_254_060_548_837_606, Some(1_785_916_281_918), Some(1_785_916_281_919), Some(1_785_916_281_919)),
    (ToMsat, "USD", "0.0000000000000067421", 1_604_312_938_070_412_344, None, None, None),
    (ToFiat, "TTD", "0.00018", 894_246_231_214, Some(0), Some(1), Some(0)),
    (ToFiat, "JPY", "0.000004", 1_002_523, Some(0), Some(1), Some(0)),
    (ToFiat, "KYD", "9.6", 461_308_449_813, Some(4_428), Some(4_429), Some(4_429)),
    (ToMsat, "JMD", "217320722820941349489852.499", 2_633_639_153_255_591_605, Some(12_118), Some(12_119), Some(12_119)),
    (ToFiat, "USD", "90.0794437825006192106647301", 405_065_840_240, Some(36_488), Some(36_489), Some(36_488)),
    (ToMsat, "USD", "5535214.45396107575", 272_834_196_229, Some(49_290_627_941_932), Some(49_290_627_941_933), Some(49_290_627_941_932)),
    (ToMsat, "TTD", "869919431.426", 446_949, Some(513_782), Some(513_783), Some(513_782)),
    (ToFiat, "JMD", "11442538789164.5150285984321", 355_928, Some(4_072_719_946), Some(4_072_719_947), Some(4_072_719_946)),
    (ToFiat, "JMD", "0.039225", 977_161_836_943, Some(38), Some(39), Some(38)),
    (ToFiat, "TTD", "0.20", 126_410_734_663, Some(25), Some(26), Some(25)),
    (ToMsat, "TTD", "619972925.047", 24_743_822_598_314_067, Some(39_911_134_178_058_249), Some(39_911_134_178_058_250), Some(39_911_134_178_058_249)),
    (ToMsat, "KYD", "2", 172, Some(86_000_000_000), Some(86_000_000_000), Some(86_000_000_000)),
    (ToFiat, "KYD", "0.00000000008", 573_057, Some(0), Some(1), Some(0)),
    (ToFiat, "JPY", "0.0000000000059690688", 796_855, Some(0), Some(1), Some(0)),
    (ToFiat, "TTD", "9099.3467", 22, Some(0), Some(1), Some(0)),
    (ToFiat, "KWD", "0.0000000063797", 2_496_910_604_507_008, Some(0), Some(1), Some(0)),
    (ToFiat, "USD", "32", 928_653, Some(0), Some(1), Some(0)),
    (ToFiat, "KYD", "416.67", 7_968_368_482_992_323_088, Some(3_320_180_095_808), Some(3_320_180_095_809), Some(3_320_180_095_808)),
    (ToFiat, "KWD", "268250.35", 11_761_955_023_587_758, Some(31_551_485_517_616), Some(31_551_485_517_617), Some(31_551_485_517_617)),
    (ToMsat, "JPY", "9182474249.06731669266957866", 219, Some(2_384), Some(2_385), Some(2_385)),
    (ToMsat, "TTD", "22", 481_688, Some(21_894_909_090_909), Some(21_894_909_090_910), Some(21_894_909_090_909)),
    (ToFiat, "JMD", "2718536405785.35123627865765", 618_568, Some(1_681_599_627), Some(1_681_599_628), Some(1_681_599_627)),
    (ToFiat, "KWD", "0.9", 835_415_474_117, Some(7_518), Some(7_519), Some(7_519)),
    (ToMsat, "TTD", "82829979049.7", 430_755_472_454, Some(5_200_477_863), Some(5_200_477_864), Some(5_200_477_863)),
    (ToMsat, "TTD", "55718956780361.8129", 462_356_916_660_055_218, Some(8_298_018_185_850), Some(8_298_018_185_851), Some(8_298_018_185_850)),
    (ToFiat, "KWD", "0.00000000025157", 117_115, Some(0), Some(1), Some(0)),
    (ToFiat, "JPY", "21.0695371761958720", 25_242_153_544_713_058, Some(5_318_404), Some(5_318_405), Some(5_318_405)),
    (ToMsat, "JMD", "1.7", 600_039, Some(352_964_117_647_058), Some(352_964_117_647_059), Some(352_964_117_647_059)),
    (ToMsat, "JPY", "569204761.513", 107, Some(18_798), Some(18_799), Some(18_798)),
    (ToFiat, "KYD", "20.748", 4_945_231_821_658_815_788, Some(102_603_669_835), Some(102_603_669_836), Some(102_603_669_836)),
    (ToFiat, "USD", "0.5", 32_935_554_577_935_443, Some(16_467_777), Some(16_467_778), Some(16_467_777)),
    (ToFiat, "USD", "92571384", 123, Some(11), Some(12), Some(11)),
    (ToFiat, "JPY", "3601.0", 4_272_260_345_067_469_188, Some(153_844_095_025), Some(153_844_095_026), Some(153_844_095_026)),
    (ToMsat, "TTD", "47263125.44248659847931875978", 588_680_530_302, Some(12_455_387_255_723), Some(12_455_387_255_724), Some(12_455_387_255_723)),
    (ToMsat, "TTD", "0.00433620522318", 238, Some(54_886_701_101_628), Some(54_886_701_101_629), Some(54_886_701_101_628)),
    (ToFiat, "USD", "234342617.413", 22_854_619_436_773_969, Some(5_355_811_338_791_635), Some(5_355_811_338_791_636), Some(5_355_811_338_791_636)),
    (ToFiat, "JPY", "7122139260649778.12", 921_032_758_382, Some(65_597_235_688_170_032), Some(65_597_235_688_170_033), Some(65_597_235_688_170_032)),
    (ToFiat, "KYD", "453754162259266611.4724617731", 58_750, Some(26_658_057_032_731), Some(26_658_057_032_732), Some(26_658_057_032_732)),
    (ToMsat, "KYD", "1.0757687", 239, Some(222_166_716_692), Some(222_166_716_693), Some(222_166_716_693)),
    (ToMsat, "JPY", "3840671470403206027579312.97", 444_220, Some(0), Some(1), Some(0)),
    (ToMsat, "JMD", "52355301", 987_414, Some(18_859_866), Some(18_859_867), Some(18_859_867)),
    (ToFiat, "JPY", "7776902.77692", 599_161, Some(46), Some(47), Some(47)),
    (ToFiat, "JMD", "5", 40, Some(0), Some(1), Some(0)),
    (ToMsat, "USD", "6001153881929063763509539.633", 16, Some(0), Some(1), Some(0)),
    (ToFiat, "KYD", "54085030939.8", 24, Some(1_298), Some(1_299), Some(1_298)),
    (ToMsat, "KWD", "770888356.197", 1_821_910_185_868_250_774, Some(236_339_045_884_182_852), Some(236_339_045_884_182_853), Some(236_339_045_884_182_852)),
    (ToFiat, "JMD", "8959414.4", 23_951_538_504_757_475, Some(214_591_758_981_678), Some(214_591_758_981_679), Some(214_591_758_981_679)),
    (ToMsat, "TTD", "58427709254.4", 4_906_832_472_212_133, Some(83_981_257_092_372), Some(83_981_257_092_373), Some(83_981_257_092_372)),
    (ToFiat, "KWD", "0.014298345", 7_700_844_775_846_434_233, Some(1_101_093_353), Some(1_101_093_354), Some(1_101_093_354)),
    (ToMsat, "TTD", "9615870126947338.25", 19_244_036_636_952_200, Some(2_001_278_759), Some(2_001_278_760), Some(2_001_278_759)),
    (ToFiat, "KWD", "0.0000063", 25_926_069_475_753_736, Some(1_633), Some(1_634), Some(1_633)),
    (ToFiat, "JMD", "798951.24", 449_304, Some(358), Some(359), Some(359)),
    (ToMsat, "USD", "0.01", 21_000_000, Some(2_100_000_000_000_000_000), Some(2_100_000_000_000_000_000), Some(2_100_000_000_000_000_000)),
    (ToMsat, "USD", "0.01", 21_000_001, None, None, None),
    (ToMsat, "USD", "1", 2_100_000_000, Some(2_100_000_000_000_000_000), Some(2_100_000_000_000_000_000), Some(2_100_000_000_000_000_000)),
    (ToMsat, "JPY", "3", 63_000_000, Some(2_100_000_000_000_000_000), Some(2_100_000_000_000_000_000), Some(2_100_000_000_000_000_000)),
    (ToMsat, "JPY", "3", 63_000_001, None, None, None),
    (ToMsat, "USD", "2000000000", 1, Some(0), Some(1), Some(0)),
    (ToMsat, "USD", "2000000000", 3, Some(1), Some(2), Some(2)),
    (ToMsat, "USD", "4000000000", 3, Some(0), Some(1), Some(1)),
    (ToMsat, "USD", "400000000000", 2, Some(0), Some(1), Some(0)),
    (ToMsat, "KWD", "7922816251426433759354395033", 9_223_372_036_854_775_807, Some(0), Some(1), Some(0)),
    (ToMsat, "JPY", "9999999999999999999999999999", 9_223_372_036_854_775_807, Some(92), Some(93), Some(92)),
    (ToFiat, "USD", "1", 500_000_000, Some(0), Some(1), Some(0)),
    (ToFiat, "USD", "1", 1_500_000_000, Some(1), Some(2), Some(2)),
    (ToFiat, "USD", "1", 1_500_000_001, Some(1), Some(2), Some(2)),
    (ToFiat, "USD", "1", 1_499_999_999, Some(1), Some(2), Some(1)),
    (ToFiat, "KWD", "9999999999999999999999999999", 9_223_372_036_854_775_807, None, None, None),
    (ToFiat, "JPY", "0.0000000000000000000000000001", 9_223_372_036_854_775_807, Some(0), Some(1), Some(0)),
    (ToFiat, "JPY", "9223372036854775807", 100_000_000_000, Some(9_223_372_036_854_775_807), Some(9_223_372_036_854_775_807), Some(9_223_372_036_854_775_807)),
    (ToFiat, "JPY", "9223372036854775807.5", 100_000_000_000, Some(9_223_372_036_854_775_807), None, None),
    (ToFiat, "JPY", "9223372036854775808", 100_000_000_000, None, None, None),
    (ToMsat, "JMD", "15000000", 0, Some(0), Some(0), Some(0)),
    (ToFiat, "JMD", "15000000", 0, Some(0), Some(0), Some(0)),
];

#[test]
fn conversions_agree_with_exact_fractions() {
    for row in ROWS {
        let (direction, code, rate, amount, down, up, half_even) = *row;
        let (currency, rate) = (
            Currency::from_code(code).unwrap(),
            rate.parse::<Rate>().unwrap(),
        );
        for (rounding, expected) in [
            (Rounding::Down, down),
            (Rounding::Up, up),
            (Rounding::HalfEven, half_even),
        ] {
            let got = match direction {
                ToMsat => rate.fiat_to_msat(currency, amount, rounding),
                ToFiat => rate.msat_to_fiat(currency, amount, rounding),
            };
            assert_eq!(
                got,
                expected.ok_or(MoneyError::Overflow),
                "{rounding:?} of {row:?}"
            );
        }
    }
}

#[test]
fn all_the_bitcoin_there_is_can_be_converted_and_not_one_msat_more() {
    let usd = Currency::from_code("USD").unwrap();
    let rate: Rate = "0.01".parse().unwrap();
    assert_eq!(
        rate.fiat_to_msat(usd, 21_000_000, Rounding::Down),
        Ok(MAX_MSAT)
    );
    assert_eq!(
        rate.fiat_to_msat(usd, 21_000_001, Rounding::Down),
        Err(MoneyError::Overflow)
    );
}
