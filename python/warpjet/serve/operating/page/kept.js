// The chats of this tab, kept over a reload and no longer than the tab: they are nobody else's.

const KEY = "warpjet.chats";

export function loadChats() {
  try {
    const kept = JSON.parse(sessionStorage.getItem(KEY) || "[]");
    return Array.isArray(kept) ? kept : [];
  } catch {
    return [];
  }
}

// Saves chats as JSON values, the newest last; the oldest are dropped until the rest fits.
export function saveChats(chats) {
  for (let from = 0; from <= chats.length; from++) {
    try {
      sessionStorage.setItem(KEY, JSON.stringify(chats.slice(from)));
      return;
    } catch {
      // no room, or no storage at all
    }
  }
}
