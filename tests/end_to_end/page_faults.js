// What is wrong with a report as it is drawn, a line each. arguments[0]: the width that it has to fit, in pixels.

const WITHOUT_UNIT = ["round", "clients"];
const faults = [];
const charts = [...document.querySelectorAll("svg.chart")];
const short = (text) => JSON.stringify(text.trim().slice(0, 40));

// A window in which something sticks out is scrolled, or zoomed out on a phone.
if (innerWidth !== arguments[0] || document.documentElement.scrollWidth > arguments[0])
    faults.push(`the page is ${document.documentElement.scrollWidth} wide, in a window of ${innerWidth}`);
for (const node of document.querySelectorAll("body *:not(.scroll *, svg, svg *)"))
    if (!node.matches(".scroll") && node.clientWidth && node.scrollWidth > node.clientWidth + 1)
        faults.push(`${short(node.textContent)} sticks out of its ${node.tagName}`);

for (const chart of charts) {
    const frame = chart.getBoundingClientRect();
    const where = short(chart.ariaLabel);
    const texts = [...chart.querySelectorAll("text")].map((text) => ({ text, box: text.getBoundingClientRect() }));
    texts.forEach(({ text, box }, index) => {
        const size = parseFloat(getComputedStyle(text).fontSize) * frame.width / chart.viewBox.baseVal.width;
        if (size < 9) faults.push(`${short(text.textContent)} is ${size.toFixed(1)} pixels high in ${where}`);
        if (!box.width || box.left < frame.left || box.right > frame.right || box.top < frame.top || box.bottom > frame.bottom)
            faults.push(`${short(text.textContent)} is cut off in ${where}`);
        for (const { text: other, box: b } of texts.slice(index + 1))
            if (box.left < b.right && b.left < box.right && box.top < b.bottom && b.top < box.bottom)
                faults.push(`${short(text.textContent)} lies on ${short(other.textContent)} in ${where}`);
    });
    const titles = [...chart.querySelectorAll(".axis-title")].map((title) => title.textContent);
    if (titles.length !== 2) faults.push(`${where} has ${titles.length} axis titles`);
    for (const title of titles)
        if (!/\S \(\S+\)$/.test(title) && !WITHOUT_UNIT.includes(title)) faults.push(`${short(title)} has no unit in ${where}`);
}

for (const figure of document.querySelectorAll("figure")) {
    const series = Math.max(...[...figure.querySelectorAll(".chart")].map((chart) => chart.querySelectorAll(":scope > g").length));
    const entries = [...figure.querySelectorAll(".legend li")].filter((entry) => entry.textContent.trim() && entry.offsetHeight);
    if (series > 1 && entries.length < series) faults.push(`#${figure.id} has ${series} series and a legend of ${entries.length}`);
}

const rgb = (colour) => colour.match(/[\d.]+/g).map(Number);
function luminance(colour) { // WCAG 2's
    const [r, g, b] = rgb(colour).map((part) => (part /= 255) <= 0.04045 ? part / 12.92 : ((part + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
}
function ground(node) {
    const colour = getComputedStyle(node).backgroundColor;
    return (rgb(colour)[3] ?? 1) === 0 ? ground(node.parentElement) : luminance(colour);
}
const written = [...document.querySelectorAll("body *")].filter((node) =>
    node.checkVisibility() && [...node.childNodes].some((child) => child.nodeType === Node.TEXT_NODE && child.data.trim()));
for (const node of written) {
    const style = getComputedStyle(node);
    const [dim, bright] = [ground(node), luminance(node.closest("svg") ? style.fill : style.color)].sort((a, b) => a - b);
    const contrast = (bright + 0.05) / (dim + 0.05);
    if (contrast < 4.5) faults.push(`${short(node.textContent)} has a contrast of ${contrast.toFixed(1)}`);
}
const [page, card] = [document.body, document.querySelector(".card")].map(ground);
return { faults, charts: charts.length, texts: written.length, page, card };
