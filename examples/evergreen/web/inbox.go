package web

import (
	"context"
	"net/http"
	"strconv"
	"time"

	"evergreen/notifications"
)

// newsFresh is how long the number of a visitor's new notices is shown without asking again. The browser keeps it, in a
// cookie that lives as long: whichever web the next page comes from knows it, and nobody's pages but the visitor's own show
// it.
const newsFresh = 10 * time.Second

// unread tells how many notices the visitor has not seen; 0 if that cannot be told in time.
func (s *site) unread(w http.ResponseWriter, r *http.Request, who *visitor) int {
	if n, err := strconv.ParseUint(cookie(r, newsCookie), 10, 16); err == nil {
		return int(n)
	}
	if s.away.resting("notifications") {
		return 0
	}
	ctx, cancel := within(r.Context(), extra)
	defer cancel()
	n, err := s.Notifications.Unread(ctx, who.token)
	if err != nil {
		s.away.rest("notifications")
		s.log.WarnContext(ctx, "page without news", "err", err)
		return 0
	}
	setCookie(w, r, newsCookie, strconv.Itoa(n), newsFresh)
	return n
}

func (s *site) inbox(w http.ResponseWriter, r *http.Request, v *view) error {
	return s.signedIn(w, r, v, "/inbox", reading, func(ctx context.Context, token string) error {
		box, err := s.Notifications.Inbox(ctx, token)
		if err != nil {
			return err
		}
		var fresh []string
		for _, n := range box.Notices {
			if n.New {
				fresh = append(fresh, n.ID)
			}
		}
		if len(fresh) > 0 {
			unsetCookie(w, r, newsCookie)
		}
		v.Title, v.Data, v.News = "Inbox", box, 0
		if err := s.views.render(w, http.StatusOK, "inbox", v); err != nil || len(fresh) == 0 {
			return err
		}
		s.seen(ctx, v.User, fresh)
		return nil
	})
}

// seen says what the visitor has been shown. Where that fails it is shown as new once more.
func (s *site) seen(ctx context.Context, who *visitor, ids []string) {
	if err := s.Notifications.Seen(ctx, who.token, ids); err != nil {
		s.log.WarnContext(ctx, "notices stay new", "err", err)
	}
}

func euro(cents int) string { return notifications.Euro(cents) }
