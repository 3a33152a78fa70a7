"""Digits in Chinese lyrics, read aloud: dates, money, telephone numbers, fractions, percentages, counts.

Lyrics are read with the usual conventions: a year and a long number digit by digit, anything with a measure word by
its value. Known from the normaliser that the released lyric tokeniser used; the goldens fix the common cases.
"""

from __future__ import annotations

import re
import string

_DIGITS = "零一二三四五六七八九"
_MOST_DIGITS = 48  # 载 is 10^44; a longer number has no name and is read digit by digit
# Powers of ten that have a name of their own, largest first.
_UNITS = tuple(zip((*range(44, 3, -4), 3, 2, 1), "载正涧沟穰秭垓京兆亿万千百十", strict=True))
_BIG_UNIT = "[百千万亿兆京垓秭穰沟涧正载]"
_TWO_BEFORE_A_BIG_UNIT = re.compile(f"(?:^|(?<={_BIG_UNIT}))二(?={_BIG_UNIT})")

# Taken from its first digit and never in part (++), so that a long number without its unit is tried once.
_NUMBER = r"(?<!\d)\d++(?:\.\d++)?"
_MONEY_UNIT = "(?:千万|百万|[亿万千百元块角毛分])"
# Characters that count things; a number before one of them is read by its value.
_MEASURE_WORDS = (
    "丈世丘丝两个丸代令件伏位冬出刀分刻勺匹升单卮厘双叠口只合名周啖回场块坡堂堆墙壳壶夏夜天头季客家寸对寻尺尾层山"
    "岁岭常幢年座张忽户手扎打担挑捆撮支斗斛斤日旬时春曲更月本条杯板枝根桶棵毫江泡溪炮煲片瓶盆盏盒盘石砣碗碟秋秒程"
    "窠笼管箩箱篮簋粒纪线罐网罗群脚腔袋袭课贯贴跳身辆辈道里针钟钧钱钵铢铺锅锱阙队阵面页顶颗首"
)

_DATE = re.compile(r"(?<!\d)(?:((?:[089]\d|(?:19|20)\d{2}))年)?(?:(\d{1,2})月(?:(\d{1,2})([日号]))?)?")
_MONEY = re.compile(rf"{_NUMBER}[多余几]?{_MONEY_UNIT}(?:\d{_MONEY_UNIT}?)?")
_MOBILE = re.compile(r"(?<!\d)(?:\+?86 ?)?1(?:[38]\d|5[0-35-9]|7[678]|9[89])\d{8}(?!\d)")
_LANDLINE = re.compile(r"(?<!\d)(?:0(?:10|2[1-3]|[3-9]\d{2})-?)?[1-9]\d{6,7}(?!\d)")
_FRACTION = re.compile(r"(?<!\d)(\d++)/(\d+)")
_PERCENTAGE = re.compile(rf"({_NUMBER})%")
_COUNT = re.compile(rf"{_NUMBER}(?=[多余几]?(?:[{_MEASURE_WORDS}]|[千微][克米]))")
_LONG_NUMBER = re.compile(r"\d{4,32}")
_ANY_NUMBER = re.compile(_NUMBER)
_TWO_BETWEEN_LETTERS = re.compile("(?<=[a-zA-Z])二(?=[a-zA-Z])")

_PUNCTUATION = (
    "！？｡。＂＃＄％＆＇（）＊＋，－／：；＜＝＞＠［＼］＾＿｀｛｜｝～｟｠｢｣､、〃《》「」『』【】〔〕〖〗〘〙〚〛〜〝〞〟〰〾〿"
    "–—‘’‛“”„‟…‧﹏·〈〉" + string.punctuation
)
_TO_COMMA = str.maketrans(dict.fromkeys(_PUNCTUATION, ","))


def spell_chinese_numbers(text: str) -> str:
    """The text with its numbers as characters; a text of any other language passes through with odd readings."""
    text = _DATE.sub(_read_date, text)
    text = _MONEY.sub(lambda match: _ANY_NUMBER.sub(lambda number: read_value(number[0]), match[0]), text)
    text = _MOBILE.sub(lambda match: read_digits(re.sub(r"\D", "", match[0])), text)
    text = _LANDLINE.sub(lambda match: read_digits(match[0].replace("-", "")), text)
    text = _FRACTION.sub(lambda match: f"{read_value(match[2])}分之{read_value(match[1])}", text)
    text = _PERCENTAGE.sub(lambda match: f"百分之{read_value(match[1])}", text.replace("％", "%"))
    text = _COUNT.sub(lambda match: read_value(match[0]), text)
    text = _LONG_NUMBER.sub(lambda match: read_digits(match[0]), text)
    text = _ANY_NUMBER.sub(lambda match: read_value(match[0]), text)
    # Names like "p2p" keep their digit.
    text = _TWO_BETWEEN_LETTERS.sub("2", text)
    # The released normaliser marked both ends of the text with these two signs and took them off again.
    return text.lstrip("^").rstrip("$")


def punctuation_to_commas(text: str) -> str:
    """Chinese lyrics know one pause: every mark, full width or ASCII, becomes a comma."""
    return text.translate(_TO_COMMA)


def read_value(number: str) -> str:
    """A number by its value: "2024" -> 两千零二十四, "12.5" -> 十二点五. Zeros alone, more than one, are silent."""
    whole, _, decimals = number.partition(".")
    spoken = _spell_whole(whole) if 1 < len(whole) <= _MOST_DIGITS else read_digits(whole)
    spoken = _TWO_BEFORE_A_BIG_UNIT.sub("两", spoken)
    if decimals:
        spoken = f"{spoken or _DIGITS[0]}点{read_digits(decimals)}"
    return spoken.removeprefix("一") if spoken.startswith("一十") else spoken


def read_digits(number: str) -> str:
    """Digit by digit, as years and telephone numbers are read: "2024" -> 二零二四."""
    return "".join(_DIGITS[int(digit)] for digit in number)


def _spell_whole(digits: str) -> str:
    significant = digits.lstrip("0")
    if not significant:
        return ""
    if len(significant) == 1:
        # A gap in the number is spoken once: 1012 is 一千零一十二.
        return (_DIGITS[0] if len(digits) > 1 else "") + read_digits(significant)
    power, unit = next((power, unit) for power, unit in _UNITS if power < len(significant))
    return _spell_whole(digits[:-power]) + unit + _spell_whole(significant[-power:])


def _read_date(match: re.Match[str]) -> str:
    year, month, day, suffix = match.groups()
    spoken = f"{read_digits(year)}年" if year else ""
    spoken += f"{read_value(month)}月" if month else ""
    return spoken + (f"{read_value(day)}{suffix}" if day else "")
